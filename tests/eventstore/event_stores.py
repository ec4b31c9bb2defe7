"""What tests of reading and of the life of streams share: some events, and a store over a database that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import Connection

from cqrs_fastapi import Event, EventStore
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.expected_version import ANY
from cqrs_fastapi.eventstore.records import AppendUnit, NewEvent, RecordedEvent, StreamAppend
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

T = TypeVar("T")

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Counted(Event):
    n: int = 0


class Renamed(Event):
    name: str = "x"


class OldRenamed(Event, name="Renamed", version=2):
    name: str = "x"


class Unregistered(Event):
    pass


REGISTRY = EventRegistry([Counted, Renamed, OldRenamed])


class Access:
    """Reads by the database, and notes how many events each reading brought."""

    def __init__(self, database: Database, tenant: str = "") -> None:
        self._database = database
        self.tenant = tenant
        self.pages: list[int] = []

    async def read(self, work: Callable[[Connection], T], /) -> T:
        result: Any = await self._database.read(work)
        self.pages.append(len(result[1] if isinstance(result, tuple) else getattr(result, "events", result)))
        return result  # type: ignore[no-any-return]  # it was only looked into

    def append(self, *arguments: object) -> None:
        raise AssertionError("reading appends nothing")


def store(database: Database, tenant: str = "") -> EventStore:
    return EventStore(Access(database, tenant), database.tables, REGISTRY)


async def opened(url: str, **settings: Any) -> Database:
    database = Database(Settings(database_url=url, **settings))
    await database.open()
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    return database


def unit(stream: str, *events: Event, tenant: str = "", at: datetime = NOW) -> AppendUnit:
    stored = tuple(_stored(event) for event in events)
    return AppendUnit(tenant, at, [StreamAppend(stream, stream.partition("-")[0], ANY, stored)])


async def put(database: Database, stream: str, *events: Event, tenant: str = "", at: datetime = NOW) -> None:
    wanted = unit(stream, *events, tenant=tenant, at=at)
    await database.write(lambda c: append(c, database.tables, wanted))


async def put_many(database: Database, stream: str, number: int) -> None:
    for first in range(1, number + 1, 2_000):
        await put(database, stream, *(Counted(n=n) for n in range(first, min(first + 2_000, number + 1))))


async def all_of(events: AsyncIterator[RecordedEvent]) -> list[RecordedEvent]:
    return [one async for one in events]


async def versions(events: AsyncIterator[RecordedEvent]) -> list[int]:
    return [one.version async for one in events]


def streams(events: Sequence[RecordedEvent]) -> list[tuple[str, int]]:
    return [(one.stream, one.version) for one in events]


def _stored(event: Event) -> NewEvent:
    definition = definition_of(type(event))
    return NewEvent(uuid4(), definition.name, definition.version, event.model_dump_json(), "{}")
