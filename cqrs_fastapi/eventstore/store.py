"""The event store as handlers use it: it reads and appends inside the unit of work of the message being handled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from cqrs_fastapi.eventstore.decisions import Decision, read_matching
from cqrs_fastapi.eventstore.decoding import decoded
from cqrs_fastapi.eventstore.expected_version import ANY, LAST, ExpectedVersion, checked
from cqrs_fastapi.eventstore.read import PAGE, StreamRange, read_page
from cqrs_fastapi.eventstore.read_all import AllRange, read_first, read_next
from cqrs_fastapi.eventstore.records import Condition, Matching, RecordedEvent, StoredEvent, checked_stream
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.storage.tables import Tables

T = TypeVar("T")

Reveal = Callable[[Sequence[StoredEvent]], Awaitable[Sequence[StoredEvent]]]
"""Decrypts what was read."""


class StoreAccess(Protocol):
    """What the store needs of a unit of work."""

    @property
    def tenant(self) -> str: ...

    async def read(self, work: Callable[[Connection], T], /) -> T:
        """Run `work` where the unit of work reads: in its own transaction once it has one."""
        ...

    def append(
        self, stream: str, events: Sequence[AnyEvent], expected: ExpectedVersion, condition: Condition | None
    ) -> None:
        """Append when the unit of work commits."""
        ...


class EventStore:
    """Asked for as a parameter of a handler. It knows the streams of one tenant, that of the message being handled.

    What it reads is committed: what the unit of work itself has appended is not among it. Reading holds at most 500
    events in memory, and no connection between them: an iteration may be left early, and may take as long as it will.
    A stored event that upcasters make several of is read as several with one position and version; they count as one
    where a number is limited, so that none is left behind.
    """

    __slots__ = ("_access", "_registry", "_reveal", "_tables")

    def __init__(
        self, access: StoreAccess, tables: Tables, registry: EventRegistry, reveal: Reveal | None = None
    ) -> None:
        self._access = access
        self._tables = tables
        self._registry = registry
        self._reveal = reveal

    async def append(
        self,
        stream: str,
        events: Sequence[AnyEvent],
        expected_version: ExpectedVersion = ANY,
        *,
        condition: Condition | None = None,
    ) -> None:
        """Append to `<category>-<id>` with the commit of the unit of work, which raises ConcurrencyError if the stream
        is not as expected then, or if the `condition` of a decision is broken. All appends of one unit are atomic.
        """
        self._access.append(checked_stream(stream), events, checked(expected_version), condition)

    async def decide(self, *wanted: Matching) -> Decision:
        """All of the tenant's events that match one of `wanted`, and the condition for an append that rests on them.

        `found = await store.decide(matching(Enrolled, course=course_id))`, then
        `store.append(stream, events, condition=found.condition)`. They are all held in memory.
        """
        if not wanted:
            raise TypeError("decide on something: await store.decide(matching(Enrolled, course=course_id))")
        tenant, every = self._access.tenant, [self._with_sources(one) for one in wanted]
        stored, condition = await self._access.read(lambda c: read_matching(c, self._tables, tenant, every))
        found = [recorded for one in await self._revealed(stored) for recorded in decoded(one, self._registry)]
        if all(one.types for one in wanted):
            names = {name for one in wanted for name in one.types}
            found = [one for one in found if self._registry.of(one.event).definition.name in names]
        return Decision(found, condition)

    def read(
        self,
        stream: str,
        *,
        after: int = 0,
        until: int | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """At most `limit` events of a stream in the order of their versions, or `backwards` from the last one.

        Versions are above `after` and up to `until`. Times are those at which units of work committed: at `since` or
        later, and earlier than `before`. They come from the clocks of several machines, which may differ: a later
        version can have an earlier time, so only versions tell what came first.

        A stream that never was is empty. ValueError at once for what no stream can be called and for numbers below 0
        or beyond 2^63 - 1. While it is read: StreamDeletedError; AheadOfStoreError if the stream has not reached
        `after`; StreamTruncatedError if what is asked for is gone. From the start a truncated stream is read without an
        error, and begins with its summary.
        """
        wanted = StreamRange(
            self._access.tenant,
            checked_stream(stream),
            _number("after", after),
            LAST if until is None else _number("until", until),
            _moment("since", since),
            _moment("before", before),
            backwards,
        )
        return self._stream(wanted, LAST if limit is None else _number("limit", limit))

    def read_all(
        self,
        *,
        after: int = 0,
        types: Sequence[type[AnyEvent]] = (),
        categories: Sequence[str] = (),
        archived: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """At most `limit` events of all of the tenant's streams with positions above `after`, in their order, up to
        where nothing can appear any more: a later call with `after` set to the last position misses nothing.

        Empty `types` and `categories` mean all. Streams that are `archived` are left out unless asked for; deleted ones
        are gone, and truncated ones begin with their summaries. ValueError at once for numbers below 0 or beyond
        2^63 - 1, UnknownMessageError for a type that is not registered. While it is read: AheadOfStoreError if the
        store has not reached `after`; UnavailableError on a standby, or when the server changes.
        """
        if isinstance(categories, str):
            raise TypeError(f"categories are several; write: categories=({categories!r},)")
        names = [self._registry.of_type(one).definition.name for one in types]
        wanted = AllRange(
            self._access.tenant, _number("after", after), self._sources(names), tuple(categories), archived
        )
        return self._all(wanted, frozenset(types), LAST if limit is None else _number("limit", limit))

    async def _revealed(self, stored: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        return stored if self._reveal is None else await self._reveal(stored)

    async def _stream(self, first: StreamRange, limit: int) -> AsyncIterator[RecordedEvent]:
        wanted: StreamRange | None = first
        while wanted is not None and limit > 0:
            size = min(PAGE, limit)
            stored = await self._access.read(partial(read_page, tables=self._tables, wanted=wanted, at_most=size))
            for one in await self._revealed(stored):
                events = decoded(one, self._registry)
                for recorded in reversed(events) if first.backwards else events:
                    yield recorded
            limit -= len(stored)
            wanted = wanted.rest(stored[-1]) if len(stored) == size else None

    async def _all(self, wanted: AllRange, types: frozenset[type], limit: int) -> AsyncIterator[RecordedEvent]:
        size = min(PAGE, limit)
        page = partial(read_first, tables=self._tables, wanted=wanted, at_most=size)
        horizon, stored = await self._access.read(page)
        while True:
            for one in await self._revealed(stored):
                # A name may stand for several classes, one for each of its versions, and for what upcasters make of it.
                found = [each for each in decoded(one, self._registry) if not types or type(each.event) in types]
                for recorded in found:
                    yield recorded
                limit -= bool(found)
                if limit == 0:
                    return
            if limit == 0 or len(stored) < size:
                return
            rest = partial(
                read_next, tables=self._tables, wanted=wanted.rest(stored[-1]), horizon=horizon, at_most=size
            )
            stored = await self._access.read(rest)

    def _sources(self, names: Sequence[str]) -> tuple[str, ...]:
        """The stored names of events of these names, in an order that does not change, for prepared statements."""
        return tuple(sorted({source for name in names for source in self._registry.sources_of(name)}))

    def _with_sources(self, wanted: Matching) -> Matching:
        return replace(wanted, types=self._sources(wanted.types))


def _number(name: str, value: int) -> int:
    if not 0 <= value <= LAST:
        raise ValueError(f"{name} is a number from 0 to {LAST}, not {value}")
    return value


def _moment(name: str, value: datetime | None) -> datetime | None:
    if value is not None and value.tzinfo is None:
        raise ValueError(f"{name}={value!r} has no time zone; write datetime.now(UTC) or value.replace(tzinfo=UTC)")
    return value
