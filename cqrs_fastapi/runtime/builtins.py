"""What a handler may ask for without a provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.refs import Identified, RefResolver, UnresolvedRefError
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.domain.root_repository import RootRepository
from cqrs_fastapi.errors import NotFoundError
from cqrs_fastapi.eventstore.store import EventStore
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.injection import Builtin
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.outbox import Outbox
from cqrs_fastapi.outbox.session_outbox import Office
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.unit_of_work.outgoing import UnitOutbox
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

M = TypeVar("M", bound=Identified)


class Assembly(Protocol):
    """What is known when the first message comes, but not yet when the plans are made."""

    @property
    def database(self) -> Database: ...

    @property
    def registry(self) -> EventRegistry: ...

    @property
    def office(self) -> Office: ...


def builtins_of(assembly: Assembly) -> Mapping[Any, Builtin]:
    """The types that the scope itself gives."""
    return {
        AsyncSession: Builtin(lambda scope: unit_of(scope).session),
        UnitOfWork: Builtin(unit_of),
        Repository: Builtin(lambda scope, aggregate: _repository(scope, aggregate, assembly)),
        RootRepository: Builtin(lambda scope, root: _root_repository(scope, root, assembly)),
        EventStore: Builtin(lambda scope: store_of(unit_of(scope), assembly)),
        RefResolver: Builtin(
            lambda scope: OwnAggregates(lambda aggregate: _repository(scope, aggregate, assembly)), replaceable=True
        ),
        RequestMediator: Builtin(lambda scope: scope.mediator),
        EventMediator: Builtin(lambda scope: scope.event_mediator),
        Outbox: Builtin(lambda scope: UnitOutbox(unit_of(scope), scope.kernel, assembly.office.desk)),
        Metadata: Builtin(lambda _: Metadata.current(), opens_unit=False),
    }


@dataclass(frozen=True, slots=True)
class OwnAggregates:
    """Resolves references to aggregates of this service, by repositories of the unit of work."""

    repository_of: Callable[[type[Aggregate]], Repository[Any]]

    async def resolve(self, cls: type[M], ids: Sequence[UUID], /) -> Mapping[UUID, M]:
        if not issubclass(cls, Aggregate):
            name = cls.__name__
            raise UnresolvedRefError(
                f"{name} is no aggregate, so nobody here knows where references to it lead; add a provider to the "
                f"container: refs: Provides[RefResolver] = providers.Factory(YourResolver)"
            )
        repository = self.repository_of(cls)
        found: dict[UUID, M] = {}
        for wanted in ids:
            try:
                found[wanted] = await repository.get(wanted)
            except NotFoundError:
                continue  # what is missing is told of all of them together
        return found


def unit_of(scope: Scope) -> UnitOfWork:
    """The unit of work of a scope, which this package's kernel has begun."""
    unit = scope.unit_of_work
    if not isinstance(unit, UnitOfWork):
        raise TypeError(f"the scope holds a {type(unit).__name__}, not a UnitOfWork")
    return unit


def store_of(unit: UnitOfWork, assembly: Assembly) -> EventStore:
    """The event store, as one unit of work sees it."""
    return EventStore(unit, assembly.database.tables, assembly.registry, unit.revealing)


def _repository(scope: Scope, aggregate: type[Aggregate], assembly: Assembly) -> Repository[Any]:
    unit = unit_of(scope)
    return Repository(aggregate, unit, assembly.database.tables, assembly.registry, unit.reveals)


def _root_repository(scope: Scope, root: type[RootEntity], assembly: Assembly) -> RootRepository[Any]:
    unit = unit_of(scope)
    return RootRepository(root, unit, assembly.database.tables, assembly.registry, unit.reveals)
