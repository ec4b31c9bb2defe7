"""References to aggregates of this service, resolved by its repositories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.refs import Identified, UnresolvedRefError
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.errors import NotFoundError

M = TypeVar("M", bound=Identified)


@dataclass(frozen=True, slots=True)
class OwnAggregates:
    """Resolves references to aggregates of this service, by repositories of the unit of work."""

    repository_of: Callable[[type[Aggregate]], Repository[Any]]

    async def resolve(self, cls: type[M], ids: Sequence[UUID], /) -> Mapping[UUID, M]:
        if not issubclass(cls, Aggregate):
            name = cls.__name__
            raise UnresolvedRefError(
                f"{name} is no aggregate, so nobody here knows where references to it lead; add a provider to the "
                f"container: refs: Provides[RefResolver] = providers.Factory(BrokerRefResolver), or YourResolver"
            )
        repository = self.repository_of(cls)
        found: dict[UUID, M] = {}
        for wanted in ids:
            try:
                found[wanted] = await repository.get(wanted)
            except NotFoundError:
                continue  # what is missing is told of all of them together
        return found
