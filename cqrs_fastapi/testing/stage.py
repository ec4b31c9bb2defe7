"""What a handler plays on in a scenario: streams of events, a unit of work that keeps what is recorded, no database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast
from uuid import UUID

from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.own_aggregates import OwnAggregates
from cqrs_fastapi.domain.refs import RefResolver
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.errors import ConcurrencyError
from cqrs_fastapi.eventstore.expected_version import NO_STREAM, describe
from cqrs_fastapi.eventstore.store import EventStore
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.injection import Builtin
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.runtime.builtins import unit_of
from cqrs_fastapi.storage.tables import build_tables
from cqrs_fastapi.unit_of_work.services import Services
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

T = TypeVar("T")

_WITH_A_DATABASE = "test it with the application itself on an SQLite file: async with cqrs.running(workers=())"


class OutOfReachError(TypeError):
    """A handler in a scenario asked for what only a whole application has."""


@dataclass(slots=True)
class Stage:
    """The streams by their names, and what has happened since the curtain rose, as (stream, event); what was published
    has no stream.
    """

    streams: dict[str, tuple[AnyEvent, ...]]
    happened: list[tuple[str | None, AnyEvent]] = field(default_factory=list)

    def begin(self, scope: Scope) -> UnitOfWork:
        return StagedUnitOfWork(self, scope)

    def builtins(self) -> Mapping[Any, Builtin]:
        """The types that the scope of a running application gives."""
        return {
            UnitOfWork: Builtin(unit_of),
            Repository: Builtin(self._repository),
            RefResolver: Builtin(
                lambda scope: OwnAggregates(lambda aggregate: self._repository(scope, aggregate)), replaceable=True
            ),
            EventMediator: Builtin(lambda scope: scope.event_mediator),
            Metadata: Builtin(lambda _: Metadata.current(), opens_unit=False),
            RequestMediator: Builtin(
                lambda _: _out_of_reach("a RequestMediator", "give a double by with_(RequestMediator, ...), or ")
            ),
            AsyncSession: Builtin(lambda _: _out_of_reach("an AsyncSession")),
            EventStore: Builtin(lambda _: _out_of_reach("the EventStore")),
        }

    def _repository(self, scope: Scope, aggregate: type[Aggregate]) -> Repository[Any]:
        tracks = _StreamsOf(self, aggregate, unit_of(scope))
        return Repository(aggregate, tracks, build_tables(MetaData()), EventRegistry(()))


@dataclass(frozen=True, slots=True)
class _NoServices:
    """Nothing is encrypted where nothing is stored."""

    personal: None = None


class StagedUnitOfWork(UnitOfWork):
    """Its commit adds to the stage."""

    __slots__ = ("_stage",)

    def __init__(self, stage: Stage, scope: Scope) -> None:
        super().__init__(cast("Services", _NoServices()), scope)  # what would use others is overridden here
        self._stage = stage

    @property
    def session(self) -> AsyncSession:
        """See OutOfReachError."""
        return _out_of_reach("an AsyncSession")

    def publish(self, event: AnyEvent, /) -> None:
        """As `UnitOfWork.publish`; that the event is registered is the application's to check."""
        definition_of(type(event))
        self._published.append(event)

    def join(self, _: Callable[[Connection], None], /, *, sends: bool = False) -> None:  # noqa: ARG002
        """See OutOfReachError."""
        _out_of_reach("a transaction to join")

    async def read(self, _: Callable[[Connection], T], /) -> T:
        """See OutOfReachError."""
        return _out_of_reach("a connection")

    async def read_few(self, _: Callable[[Connection], T], /) -> T:
        """See OutOfReachError."""
        return _out_of_reach("a connection")

    async def commit(self) -> None:
        """As `UnitOfWork.commit`: an aggregate that was added and has a stream already is a ConcurrencyError."""
        streams = dict(self._stage.streams)
        for draft in self._drafts:
            if draft.stream is None:
                continue
            before = self._stage.streams.get(draft.stream, ())
            if before and draft.expected is NO_STREAM:
                raise ConcurrencyError(
                    stream=draft.stream, expected=describe(NO_STREAM), actual=len(before), retryable=False
                )
            streams[draft.stream] = (*streams.get(draft.stream, ()), draft.event)
        self._stage.streams.update(streams)
        self._stage.happened += [(draft.stream, draft.event) for draft in self._drafts]


@dataclass(frozen=True, slots=True)
class _StreamsOf:
    """Gives a repository its aggregates, folded from the events of the stage. So it never comes to read anything."""

    stage: Stage
    aggregate: type[Aggregate]
    unit: UnitOfWork

    @property
    def tenant(self) -> str:
        return self.unit.tenant

    def track(self, aggregate: Aggregate, /) -> None:
        self.unit.track(aggregate)

    def tracked(self, stream: str, /) -> Aggregate:
        known = self.unit.tracked(stream)
        if known is not None:
            return known
        loaded = self.aggregate(UUID(stream.removeprefix(f"{self.aggregate.__category__}-")))
        history = self.stage.streams.get(stream, ())
        loaded.replay(history, len(history))
        self.unit.track(loaded)
        return loaded

    async def read(self, work: Callable[[Connection], T], /) -> T:
        return await self.unit.read(work)

    async def read_few(self, work: Callable[[Connection], T], /) -> T:
        return await self.unit.read_few(work)


def _out_of_reach(what: str, instead: str = "") -> NoReturn:
    raise OutOfReachError(f"the handler asks for {what}, which a scenario has not; {instead}{_WITH_A_DATABASE}")
