"""The event store as handlers use it: it reads and appends inside the unit of work of the message being handled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from cqrs_fastapi.eventstore.expected_version import ANY, ExpectedVersion, checked
from cqrs_fastapi.eventstore.read import read_stream
from cqrs_fastapi.eventstore.records import RecordedEvent, StoredEvent, checked_stream
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.storage.tables import Tables

T = TypeVar("T")


class StoreAccess(Protocol):
    """What the store needs of a unit of work."""

    @property
    def tenant(self) -> str: ...

    async def read(self, work: Callable[[Connection], T], /) -> T:
        """Run `work` where the unit of work reads: in its own transaction once it has one."""
        ...

    def append(self, stream: str, events: Sequence[AnyEvent], expected: ExpectedVersion) -> None:
        """Append when the unit of work commits."""
        ...


class EventStore:
    """Asked for as a parameter of a handler."""

    __slots__ = ("_access", "_registry", "_tables")

    def __init__(self, access: StoreAccess, tables: Tables, registry: EventRegistry) -> None:
        self._access = access
        self._tables = tables
        self._registry = registry

    async def append(self, stream: str, events: Sequence[AnyEvent], expected_version: ExpectedVersion = ANY) -> None:
        """Append to `<category>-<id>` with the commit of the unit of work, which raises ConcurrencyError if the stream
        is not as expected then. All appends of one unit of work are atomic.
        """
        self._access.append(checked_stream(stream), events, checked(expected_version))

    async def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[RecordedEvent]:
        """The events of a stream with a version above `after`, in order; what this unit of work has not yet committed
        is not among them.
        """
        tenant = self._access.tenant
        stored = await self._access.read(
            lambda connection: read_stream(connection, self._tables, stream, tenant=tenant, after=after, limit=limit)
        )
        return [decoded(one, self._registry) for one in stored]


def decoded(stored: StoredEvent, registry: EventRegistry) -> RecordedEvent:
    """The event in a row; UnknownMessageError or MalformedMessageError."""
    event = registry.decode(stored.type, stored.schema_version, stored.data.encode())
    return RecordedEvent(stored.position, stored.stream, stored.version, stored.message_id, stored.recorded_at, event)
