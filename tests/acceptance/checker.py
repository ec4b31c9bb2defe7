"""Judges what a service has left behind. It knows tables and promises, and nothing of the framework's code."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

HANDLERS = ("writer", "overview")


@dataclass
class Remains:
    """Rows as they were read: events as (stream, version, command), effects as (handler, command)."""

    events: list[tuple[str, int, str]] = field(default_factory=list)
    effects: list[tuple[str, str]] = field(default_factory=list)
    ticks: list[str] = field(default_factory=list)
    outbox: int = 0
    unread: int = 0
    dead_letters: int = 0
    leases_held: list[str] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Nothing waits: neither for the broker nor for a durable handler."""
        return self.outbox == 0 and self.unread == 0


QUERIES = {
    "events": "SELECT stream, version, data FROM cqrs_events ORDER BY position",
    "effects": "SELECT handler, command FROM effects ORDER BY n",
    "ticks": "SELECT tick FROM ticks ORDER BY n",
    "outbox": "SELECT count(*) FROM cqrs_outbox",
    "unread": "SELECT count(*) FROM cqrs_events WHERE position > "
    "(SELECT coalesce(min(position), 0) FROM cqrs_checkpoints WHERE partition = 'store')",
    "dead_letters": "SELECT count(*) FROM cqrs_dead_letters",
    "leases_held": "SELECT name FROM cqrs_leases WHERE owner IS NOT NULL ORDER BY name",
}


def read_sqlite(file: str) -> Remains:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)
    try:
        return remains_of({name: connection.execute(query).fetchall() for name, query in QUERIES.items()})
    finally:
        connection.close()


def remains_of(found: dict[str, list[tuple]]) -> Remains:  # type: ignore[type-arg]  # rows of several tables
    events = []
    for stream, version, data in found["events"]:
        body = json.loads(data) if isinstance(data, str | bytes) else data
        events.append((stream, version, body["command"]))
    return Remains(
        events,
        [(handler, command) for handler, command in found["effects"]],
        [tick for (tick,) in found["ticks"]],
        found["outbox"][0][0],
        found["unread"][0][0],
        found["dead_letters"][0][0],
        [name for (name,) in found["leases_held"]],
    )


def faults(remains: Remains, acknowledged: Collection[str]) -> list[str]:
    """Every broken promise as a sentence; none is the only good answer."""
    stored = Counter(command for _, _, command in remains.events)
    found = [f"acknowledged and not stored: {one}" for one in acknowledged if one not in stored]
    found += [f"stored {count} times: {one}" for one, count in stored.items() if count > 1]
    found += _effects(remains, stored)
    found += _versions(remains)
    found += [f"tick run {count} times: {tick}" for tick, count in Counter(remains.ticks).items() if count > 1]
    found += [f"{remains.outbox} messages still wait in the outbox"] if remains.outbox else []
    found += [f"{remains.dead_letters} dead letters"] if remains.dead_letters else []
    return found


def _effects(remains: Remains, stored: Counter[str]) -> list[str]:
    counts = Counter(remains.effects)
    found = []
    for handler in HANDLERS:
        found += [
            f"{handler} has {count} effects of {command}"
            for command in stored
            if (count := counts[handler, command]) != 1
        ]
    found += [f"phantom: {handler} of {command}" for handler, command in counts if command not in stored]
    return found


def _versions(remains: Remains) -> list[str]:
    streams: dict[str, list[int]] = defaultdict(list)
    order: dict[str, list[str]] = defaultdict(list)
    stream_of = {}
    for stream, version, command in remains.events:
        streams[stream].append(version)
        order[stream].append(command)
        stream_of[command] = stream
    found = [
        f"{stream} has versions {versions}"
        for stream, versions in streams.items()
        if versions != list(range(1, len(versions) + 1))
    ]
    for handler in HANDLERS:
        handled: dict[str, list[str]] = defaultdict(list)
        for name, command in remains.effects:
            if name == handler and command in stream_of:
                handled[stream_of[command]].append(command)
        found += [
            f"{handler} saw {stream} in another order"
            for stream, commands in handled.items()
            if [one for one in order[stream] if one in set(commands)] != list(dict.fromkeys(commands))
        ]
    return found
