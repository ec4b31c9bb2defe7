"""Where durable handlers begin in the store: recorded when a handler is seen for the first time, and never again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.eventstore.checkpoints import read_checkpoints, start
from cqrs_fastapi.eventstore.horizon import Horizon, read_horizon
from cqrs_fastapi.inbox import added
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.storage.database import Database


@dataclass(frozen=True, slots=True)
class Reader:
    """A durable handler as the store knows it: its stable name, the stored names under which there may be its events,
    where it begins, and whether it passes over those of them that nothing here can read.
    """

    consumer: str
    types: frozenset[str]
    from_start: bool
    skips_unknown: bool = False


def readers_of(durable: Iterable[Handling], registry: EventRegistry) -> list[Reader]:
    """One for each name: a name may be bound for several events."""
    types: dict[str, set[str]] = {}
    bound: dict[str, Handling] = {}
    for handling in durable:
        name = definition_of(handling.message_type).name
        types.setdefault(handling.consumer, set()).update(registry.sources_of(name))
        bound[handling.consumer] = handling
    return [Reader(name, frozenset(types[name]), one.from_start, one.unknown == "skip") for name, one in bound.items()]


@dataclass(frozen=True, slots=True)
class _Missing:
    horizon: Horizon
    readers: Sequence[Reader]
    events: Sequence[tuple[str, str]]


@dataclass(slots=True)
class Starts:
    """Whichever process comes first records where a new handler begins.

    A process records before it commits any event, so that none of its events comes too early for its own handlers.
    """

    database: Database
    readers: Sequence[Reader]
    clock: Clock
    recorded: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def record(self) -> None:
        """Once per process. UnavailableError if the database does not answer; the next call tries again."""
        async with self._turn:
            if not self.recorded:
                await self.record_missing()
                self.recorded = True

    async def record_missing(self) -> None:
        """Record those that have no checkpoint (any more): at W, or before all events. Likewise the events that a known
        handler is bound to now and was not before, which are always new to it from W on.
        """
        missing = await self.database.read(self._find)
        if missing.readers or missing.events:
            await self.database.write(lambda connection: self._insert(connection, missing))

    def _find(self, connection: Connection) -> _Missing:
        tables, names = self.database.tables, [reader.consumer for reader in self.readers]
        known = read_checkpoints(connection, tables, names)
        bound = added.recorded(connection, tables, names)
        return _Missing(
            read_horizon(connection, tables),
            [reader for reader in self.readers if reader.consumer not in known],
            [
                (one.consumer, event)
                for one in self.readers
                for event in sorted(one.types)
                if (one.consumer, event) not in bound
            ],
        )

    def _insert(self, connection: Connection, missing: _Missing) -> None:
        tables, now = self.database.tables, self.clock.now()
        new = {reader.consumer for reader in missing.readers}
        for consumer, event in missing.events:
            position = missing.horizon.safe
            added.record(connection, tables, consumer, event, position, is_new=consumer in new, now=now)
        for reader in missing.readers:
            start(connection, tables, reader.consumer, missing.horizon, from_start=reader.from_start, now=now)
