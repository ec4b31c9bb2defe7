"""References to what other services own: one request for all of one class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel, Field, create_model
from pydantic.errors import PydanticUserError

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.own_aggregates import OwnAggregates
from cqrs_fastapi.domain.refs import Identified, UnresolvedRefError
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.domain.root_repository import RootRepository
from cqrs_fastapi.errors import NotFoundError
from cqrs_fastapi.mediation.answer_codec import codec_of_answers
from cqrs_fastapi.messages.requests import Query
from cqrs_fastapi.remote.client import BrokerClient

MOST_IDS = 1000
"""Of one request; more of one class are asked for by several."""

M = TypeVar("M", bound=Identified)


@dataclass(frozen=True, slots=True)
class BrokerRefResolver:
    """Asks the owner of a class over the broker, on `<class>.refs` or the topic that is given for it; aggregates of
    this service are loaded by their repositories. In the container:

        refs: Provides[RefResolver] = providers.Factory(BrokerRefResolver)

    One request for each class and 1,000 ids. Raises NoReplyError after `timeout` seconds, and RemoteFailedError.
    """

    client: BrokerClient
    own: OwnAggregates
    topics: Mapping[type, str] | None = None
    timeout: float = 10.0

    async def resolve(self, cls: type[M], ids: Sequence[UUID], /) -> Mapping[UUID, M]:
        """Those that there are, by their ids."""
        if issubclass(cls, Aggregate):
            return await self.own.resolve(cls, ids)
        topic = (self.topics or {}).get(cls) or topic_of_refs(cls)
        finding, found = _finding_of_mirror(cls), list[M]()
        for start in range(0, len(ids), MOST_IDS):
            asked = finding(ids=tuple(ids[start : start + MOST_IDS]))
            found += await self.client.send(asked, topic=topic, timeout=self.timeout)
        return {one.id: one for one in found}


def topic_of_refs(cls: type) -> str:
    """Where others ask for things of this class."""
    return f"{cls.__name__}.refs"


@lru_cache(maxsize=256)
def finding_of(view: type[Any]) -> type[Any]:
    """The query for things of this class: a class of its own, since its answers have a type of their own."""
    base, answers = cast("Any", Query), cast("Any", list)[view]
    ids = (tuple[UUID, ...], Field(max_length=MOST_IDS))
    finding: type[Any] = create_model(f"Find{view.__name__}", __base__=base[answers], ids=ids)
    return finding


def finder_of(
    aggregate: type[Aggregate], view: type[BaseModel], finding: type[Any]
) -> Callable[..., Awaitable[list[Any]]]:
    """The handler of that query, which loads by the repository."""
    repositories: Any = RootRepository if issubclass(aggregate, RootEntity) else Repository

    async def find(query: Any, repository: Any) -> list[Any]:
        found: list[Any] = []
        for wanted in query.ids:
            try:
                found.append(view.model_validate(await repository.get(wanted), from_attributes=True))
            except NotFoundError:
                continue  # whoever asks knows by its absence
        return found

    find.__name__ = find.__qualname__ = f"find_{aggregate.__name__}"
    # The injection reads them as it reads those of any handler.
    find.__annotations__ = {"query": finding, "repository": repositories[aggregate], "return": cast("Any", list)[view]}
    return find


def _finding_of_mirror(cls: type[Any]) -> type[Any]:
    try:
        mirror: Any = cls
        finding = finding_of(mirror)
        codec_of_answers(cast("Any", finding))
    except PydanticUserError:
        raise UnresolvedRefError(
            f"{cls.__name__} cannot be read from JSON, so that no reply can hold it; make it an ExternalEntity"
        ) from None
    return finding
