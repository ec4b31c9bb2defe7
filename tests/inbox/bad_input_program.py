"""A consumer as a process of its own that is given all of `bad_input`, several times, and tells what came of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bad_input
from bad_input import HANDLED, NAMES, Case, application, corpus, native

from cqrs_fastapi import CQRS, Settings
from cqrs_fastapi.brokers.broker import IncomingMessage, OutgoingMessage, Place, Revoked
from cqrs_fastapi.dead_letters.parking import Letter, newest

ROUNDS = 5
_WATCHED = frozenset(
    {"import", "exec", "os.system", "os.exec", "subprocess.Popen", "pickle.find_class", "ctypes.dlopen"}
)


class RawTopics:
    """A broker that hands out what is laid into it, byte for byte, as one would that strangers write to."""

    name, in_process, max_message_bytes = "raw", True, None

    def __init__(self) -> None:
        self.waiting: list[IncomingMessage] = []
        self.settled: list[IncomingMessage] = []

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def ping(self) -> None: ...
    async def ensure_topics(self, topics: Sequence[str]) -> None: ...
    def declare_group(self, group: str, topics: Sequence[str]) -> None: ...

    async def publisher(self) -> Any:
        return self

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Any:
        raise NotImplementedError

    async def subscribe(self, group: str, topics: Sequence[str], *, revoked: Revoked | None = None) -> Any:
        return self

    def pause(self, place: Place) -> None: ...
    def resume(self, place: Place) -> None: ...

    def stranded(self) -> dict[Place, str]:
        return {}

    async def receive(self) -> Sequence[IncomingMessage]:
        while not self.waiting:
            await asyncio.sleep(0.01)
        batch, self.waiting = self.waiting[:50], self.waiting[50:]
        return batch

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        self.settled += messages


class Audit:
    """Counts imports and executions while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, Counter[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in _WATCHED:
            self.seen[f"{event} {str(arguments[:1])[:100]}"] += 1


def made(url: str, topics: RawTopics, done: list[str]) -> CQRS:
    limit = bad_input.LIMIT
    cqrs = application(Settings(database_url=url, service="tests", max_message_bytes=limit, handler_attempts=1))
    cqrs.container.broker.override(topics)
    for event_type in bad_input.TYPES:

        @cqrs.on(event_type, name=f"on_{event_type.__name__.lower()}")
        async def handle(event: Any) -> None:
            done.append(event.what)

    return cqrs


def memory(name: str) -> int:
    """Of this process, in bytes: `VmRSS` now, `VmHWM` at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def forget_peak() -> None:
    """The most so far was that of making the cases."""
    Path("/proc/self/clear_refs").write_text("5")


async def give(topics: RawTopics, cases: Sequence[Case], first_offset: int) -> None:
    before = len(topics.settled)
    topics.waiting += [replace(case.message(), offset=first_offset + n) for n, case in enumerate(cases)]
    while len(topics.settled) < before + len(cases):
        await asyncio.sleep(0.01)


async def letters(cqrs: CQRS) -> list[Letter]:
    return await cqrs.database.read(lambda connection: newest(connection, cqrs.database.tables, 10_000))


async def run(url: str) -> dict[str, Any]:
    topics, audit, done, cases = RawTopics(), Audit(), [], corpus()
    cqrs = made(url, topics, done)
    async with cqrs.running(workers=("consumer",)):
        await give(topics, [native("warm", HANDLED), native("cold", "", b"")], 0)
        forget_peak()
        start = memory("VmRSS")
        audit.on = True
        await give(topics, [native(f"audited {name}", "", type=name.encode()) for name in NAMES], 100)
        audit.on = False
        rounds = []
        for number in range(1, ROUNDS + 1):
            await give(topics, cases, 1000 * number)
            rounds.append(memory("VmRSS"))
        ready = await cqrs.readiness()
        await give(topics, [native("at last", HANDLED, b'{"what":"at last"}')], 1000 * (ROUNDS + 1))
        peak = memory("VmHWM")
        found = await letters(cqrs)
    parked = {letter.offset - 1000: letter for letter in found if 1000 <= letter.offset < 2000}
    ends = [parked[n].code if n in parked else HANDLED for n in range(len(cases))]
    return {
        "wrong": [[case.name, end] for case, end in zip(cases, ends, strict=True) if case.end != end],
        "raw": all(parked[n].payload == cases[n].payload for n in parked),
        "reasons": all(letter.error for letter in found),
        "cases": len(cases),
        "last": done[-1],
        "audit": dict(audit.seen),
        "start": start,
        "rounds": rounds,
        "peak": peak,
        "ready": [check.name for check in ready.checks if not check.ok],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1]))))  # noqa: T201  # its answer
