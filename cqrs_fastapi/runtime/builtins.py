"""What a handler may ask for without a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.own_aggregates import OwnAggregates
from cqrs_fastapi.domain.refs import RefResolver
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.domain.root_repository import RootRepository
from cqrs_fastapi.eventstore.store import EventStore
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.injection import Builtin
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.outbox import Outbox
from cqrs_fastapi.outbox.session_outbox import Office
from cqrs_fastapi.remote.client import BrokerClient
from cqrs_fastapi.remote.reply_headers import ReplyHeaders
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.unit_of_work.outgoing import UnitOutbox
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork


class Assembly(Protocol):
    """What is known when the first message comes, but not yet when the plans are made."""

    @property
    def database(self) -> Database: ...

    @property
    def registry(self) -> EventRegistry: ...

    @property
    def office(self) -> Office: ...

    @property
    def broker_client(self) -> BrokerClient: ...


def builtins_of(assembly: Assembly) -> Mapping[Any, Builtin]:
    """The types that the scope itself gives."""
    return {
        AsyncSession: Builtin(lambda scope: unit_of(scope).session),
        UnitOfWork: Builtin(unit_of),
        Repository: Builtin(lambda scope, aggregate: _repository(scope, aggregate, assembly)),
        RootRepository: Builtin(lambda scope, root: _root_repository(scope, root, assembly)),
        EventStore: Builtin(lambda scope: store_of(unit_of(scope), assembly)),
        OwnAggregates: Builtin(lambda scope: _own_aggregates(scope, assembly)),
        RefResolver: Builtin(lambda scope: _own_aggregates(scope, assembly), replaceable=True),
        BrokerClient: Builtin(lambda _: assembly.broker_client),
        ReplyHeaders: Builtin(lambda _: ReplyHeaders.current(), opens_unit=False),
        RequestMediator: Builtin(lambda scope: scope.mediator),
        EventMediator: Builtin(lambda scope: scope.event_mediator),
        Outbox: Builtin(lambda scope: UnitOutbox(unit_of(scope), scope.kernel, assembly.office.desk)),
        Metadata: Builtin(lambda _: Metadata.current(), opens_unit=False),
    }


def unit_of(scope: Scope) -> UnitOfWork:
    """The unit of work of a scope, which this package's kernel has begun."""
    unit = scope.unit_of_work
    if not isinstance(unit, UnitOfWork):
        raise TypeError(f"the scope holds a {type(unit).__name__}, not a UnitOfWork")
    return unit


def store_of(unit: UnitOfWork, assembly: Assembly) -> EventStore:
    """The event store, as one unit of work sees it."""
    return EventStore(unit, assembly.database.tables, assembly.registry, unit.revealing)


def _own_aggregates(scope: Scope, assembly: Assembly) -> OwnAggregates:
    return OwnAggregates(lambda aggregate: _repository(scope, aggregate, assembly))


def _repository(scope: Scope, aggregate: type[Aggregate], assembly: Assembly) -> Repository[Any]:
    unit = unit_of(scope)
    return Repository(aggregate, unit, assembly.database.tables, assembly.registry, unit.reveals)


def _root_repository(scope: Scope, root: type[RootEntity], assembly: Assembly) -> RootRepository[Any]:
    unit = unit_of(scope)
    return RootRepository(root, unit, assembly.database.tables, assembly.registry, unit.reveals)
