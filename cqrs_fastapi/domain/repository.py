"""Loads aggregates into the unit of work that will store what they record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.errors import ConcurrencyError, NotFoundError, StreamTruncatedError
from cqrs_fastapi.eventstore.expected_version import describe
from cqrs_fastapi.eventstore.read import StreamRange, read_page
from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.eventstore.store import Reveal
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.storage.tables import Tables

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")

FEW = 200
"""Events that are read at once; a longer stream takes a second read."""
MORE = 5_000
"""Events of that second read, and of each further one: they are folded one by one, and not all held at once."""


class TracksAggregates(Protocol):
    """What a repository needs of a unit of work."""

    @property
    def tenant(self) -> str: ...

    async def read(self, work: Callable[[Connection], T], /) -> T: ...

    async def read_few(self, work: Callable[[Connection], T], /) -> T:
        """As `read`, for one statement that finds at most a few hundred rows."""
        ...

    def track(self, aggregate: Aggregate, /) -> None:
        """Store what the aggregate records when the unit of work commits."""
        ...

    def tracked(self, stream: str, /) -> Aggregate | None:
        """The aggregate of this stream that the unit of work already holds."""
        ...


class Repository(Generic[A]):
    """Asked for as a parameter: `accounts: Repository[Account]`. In one unit of work an aggregate is loaded once."""

    __slots__ = ("_aggregate_type", "_registry", "_reveal", "_tables", "_unit_of_work")

    def __init__(
        self,
        aggregate_type: type[A],
        unit_of_work: TracksAggregates,
        tables: Tables,
        registry: EventRegistry,
        reveal: Reveal | None = None,
    ) -> None:
        self._aggregate_type = aggregate_type
        self._unit_of_work = unit_of_work
        self._tables = tables
        self._registry = registry
        self._reveal = reveal

    async def get(self, id: UUID, *, expected_version: int | None = None) -> A:
        """The aggregate, folded from its events. Raises NotFoundError if it has none (StreamDeletedError, one of its
        kind, if they were deleted), and ConcurrencyError if it is not at the `expected_version`; such an error is not
        retried, since the version is the caller's.
        """
        aggregate = await self._load(id)
        if aggregate.is_new and not aggregate.recorded:
            raise NotFoundError(kind=self._aggregate_type.__name__, identifier=str(id))
        if expected_version is not None and aggregate.version != expected_version:
            raise ConcurrencyError(
                stream=aggregate.stream,
                expected=describe(expected_version),
                actual=aggregate.version,
                retryable=False,
            )
        return aggregate

    async def get_or_new(self, id: UUID) -> A:
        """The aggregate, or a new one with its start values if it has no events. StreamDeletedError if it had some."""
        return await self._load(id)

    def add(self, aggregate: A) -> None:
        """Take in a new aggregate; the commit raises ConcurrencyError if its stream exists already."""
        self._unit_of_work.track(aggregate)

    async def _load(self, id: UUID) -> A:
        aggregate = self._aggregate_type(id)
        known = self._unit_of_work.tracked(aggregate.stream)
        if known is not None:
            return self._same_type(known)
        try:
            await self._replay(aggregate)
        except StreamTruncatedError:
            # It was cut between two reads. From the start it begins with a summary of what has just gone.
            aggregate = self._aggregate_type(id)
            await self._replay(aggregate)
        self._unit_of_work.track(aggregate)
        return aggregate

    async def _replay(self, aggregate: A) -> None:
        """Fold what is stored: the first events, which mostly are all there are, and then the rest."""
        wanted, tables = StreamRange(self._unit_of_work.tenant, aggregate.stream), self._tables
        first = partial(read_page, tables=tables, wanted=wanted, at_most=FEW)
        stored, size = await self._unit_of_work.read_few(first), FEW
        self._fold(aggregate, stored if self._reveal is None else await self._reveal(stored))
        while len(stored) == size and (rest := wanted.rest(stored[-1])) is not None:
            more = partial(read_page, tables=tables, wanted=rest, at_most=MORE)
            stored, size = await self._unit_of_work.read(more), MORE
            self._fold(aggregate, stored if self._reveal is None else await self._reveal(stored))

    def _fold(self, aggregate: A, stored: Sequence[StoredEvent]) -> None:
        if stored:
            decode = self._registry.decode
            events = (decode(row.type, row.schema_version, row.data.encode()) for row in stored)
            aggregate.replay(events, stored[-1].version)

    def _same_type(self, known: Aggregate) -> A:
        if not isinstance(known, self._aggregate_type):
            raise TypeError(
                f"{known.stream} is loaded as {type(known).__name__} and asked for as {self._aggregate_type.__name__}; "
                f"give one of the classes another category"
            )
        return known
