"""Loads aggregates into the unit of work that will store what they record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.replaying import Replay
from cqrs_fastapi.domain.revealing import Reveals
from cqrs_fastapi.domain.snapshot_form import SnapshotForm
from cqrs_fastapi.errors import ConcurrencyError, NotFoundError, StreamTruncatedError
from cqrs_fastapi.eventstore.expected_version import describe
from cqrs_fastapi.eventstore.history import FoundSnapshot, History, read_behind_snapshot, read_history
from cqrs_fastapi.eventstore.read import StreamRange
from cqrs_fastapi.eventstore.snapshots import from_bytes
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.tokens import WrongKeyError
from cqrs_fastapi.storage.prepared import Row
from cqrs_fastapi.storage.tables import Tables

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")

log = structlog.get_logger("cqrs_fastapi")

FEW = 1_024
"""Events that are read at once; a longer stream takes a second read. To fold so many takes as long as to read them, so
that reading them elsewhere would not free the loop.
"""
MORE = 5_000
"""Events of that second read, and of each further one: they are folded one by one, and not all held at once."""


class TracksAggregates(Protocol):
    """What a repository needs of a unit of work."""

    @property
    def tenant(self) -> str: ...

    async def read(self, work: Callable[[Connection], T], /) -> T: ...

    async def read_few(self, work: Callable[[Connection], T], /) -> T:
        """As `read`, for one statement that finds about a thousand rows at most."""
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
        reveal: Reveals | None = None,
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
        require_version(aggregate, expected_version)
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
        aggregate = await self._folded(aggregate)
        self._unit_of_work.track(aggregate)
        return aggregate

    async def _folded(self, new: A) -> A:
        try:
            await self._replay(new)
        except StreamTruncatedError:
            # It was cut between two reads. From the start it begins with a summary of what has just gone.
            new = self._aggregate_type(new.id)
            await self._replay(new)
        return new

    async def _replay(self, aggregate: A) -> None:
        """Fold what is stored: the first events, which mostly are all there are, and then the rest."""
        read, wanted = self._unit_of_work.read, StreamRange(self._unit_of_work.tenant, aggregate.stream)
        replay, size = Replay(aggregate, self._registry), FEW
        history = await self._begin(aggregate, wanted)
        replay.fold(await self._revealed(aggregate, history))
        while len(history.events) == size:
            rest, size = replace(wanted, after=aggregate.version, begun=True), MORE
            history = await read(partial(read_history, tables=self._tables, wanted=rest, at_most=size))
            replay.fold(await self._revealed(aggregate, history))
        if aggregate.__snapshots__ is not None:
            aggregate.__snapshots__.loaded_in(aggregate, replay.seconds)

    async def _revealed(self, aggregate: A, history: History) -> Sequence[Row]:
        if self._reveal is None:
            return history.events
        rows, key_ids = await self._reveal.history(aggregate.stream, history.events)
        if key_ids and aggregate.__snapshots__ is not None:
            aggregate.__snapshots__.learnt(aggregate, key_ids)
        return rows

    async def _begin(self, aggregate: A, wanted: StreamRange) -> History:
        """The first events to fold: those behind the snapshot, if there is one that fits."""
        read_few, form = self._unit_of_work.read_few, aggregate.__snapshots__
        from_start = partial(read_history, tables=self._tables, wanted=wanted, at_most=FEW)
        if form is None:
            return await read_few(from_start)
        behind = partial(
            read_behind_snapshot,
            tables=self._tables,
            wanted=wanted,
            at_most=FEW,
            fingerprint=form.fingerprint_in(self._registry),
        )
        history = await read_few(behind)
        if (found := history.snapshot) is not None:
            try:
                await self._take_over(aggregate, form, found)
            except (ValueError, WrongKeyError) as error:
                kind = type(error).__name__
                log.warning("snapshot_ignored", stream=wanted.stream, version=found.version, error=kind)
                return await read_few(from_start)
        return history

    async def _take_over(self, aggregate: A, form: SnapshotForm, found: FoundSnapshot) -> None:
        state, key_ids = found.state, found.key_ids
        if key_ids:
            if self._reveal is None:
                raise WrongKeyError("this application has no keys")
            state = await self._reveal.snapshot(aggregate.stream, form.fingerprint_in(self._registry), found)
        form.restore(aggregate, from_bytes(state), found.version, key_ids)

    def _same_type(self, known: Aggregate) -> A:
        if not isinstance(known, self._aggregate_type):
            raise TypeError(
                f"{known.stream} is loaded as {type(known).__name__} and asked for as {self._aggregate_type.__name__}; "
                f"give one of the classes another category"
            )
        return known


def require_version(aggregate: Aggregate, expected: int | None) -> None:
    """ConcurrencyError, which is not retried, unless it is at the version that the caller names."""
    if expected is not None and aggregate.version != expected:
        raise ConcurrencyError(
            stream=aggregate.stream, expected=describe(expected), actual=aggregate.version, retryable=False
        )
