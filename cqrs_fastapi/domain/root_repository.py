"""Creates, loads and finds root entities in the unit of work that will store what becomes of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import ValidationError

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.finding.conditions import Condition
from cqrs_fastapi.domain.finding.ordering import Ordering
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.search import Search, find_states, merge, next_cursor
from cqrs_fastapi.domain.finding.states import read_states
from cqrs_fastapi.domain.finding.streaming import in_parts
from cqrs_fastapi.domain.repository import FEW, Repository, TracksAggregates, require_version
from cqrs_fastapi.domain.revealing import Reveals
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.domain.root_rows import present_row, restore
from cqrs_fastapi.errors import NotFoundError
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.storage.tables import Tables

R = TypeVar("R", bound=RootEntity)

_REVEALED_AT_ONCE = 200
"""Rows of a stream whose keys are read together; so many are held in memory."""
_KEPT = ("version", "created_at", "updated_at", "deleted_at")


class TracksRoots(TracksAggregates, Protocol):
    """What a repository of root entities needs of a unit of work besides."""

    @property
    def is_read_only(self) -> bool: ...

    def held(self) -> Iterable[Aggregate]: ...

    def stream_states(self, search: Search, own: Sequence[RootState], /) -> AsyncGenerator[RootState, None]: ...

    def now(self) -> datetime: ...

    def new_id(self) -> UUID: ...


@dataclass(frozen=True, slots=True)
class Page(Sequence[R], Generic[R]):
    """Some of what was found, in its order. `next` is what `after` of the next page is, None after the last."""

    roots: tuple[R, ...]
    next: str | None

    def __getitem__(self, index: int) -> R:  # type: ignore[override]  # pages are not cut
        return self.roots[index]

    def __iter__(self) -> Iterator[R]:
        return iter(self.roots)

    def __len__(self) -> int:
        return len(self.roots)


class RootRepository(Repository[R], Generic[R]):
    """Asked for as a parameter: `products: RootRepository[Product]`. In one unit of work there is one object for each
    root, however it was reached; its changes are recorded and stored with the commit.

    Reading one costs the same however many events it has: the current states stand in rows that are written in the
    transaction of their events. Every change is appended on the version that was read, so that no update of somebody
    else's is lost: ConcurrencyError at the commit, after which the mediator has the command decided again.
    """

    __slots__ = ("_roots",)

    def __init__(
        self,
        root_type: type[R],
        unit_of_work: TracksRoots,
        tables: Tables,
        registry: EventRegistry,
        reveal: Reveals | None = None,
    ) -> None:
        super().__init__(root_type, unit_of_work, tables, registry, reveal)
        self._roots = unit_of_work

    def create(self, /, *, id: UUID | None = None, **fields: object) -> R:
        """A new one with these fields; an id that is left out is a new one. Raises a TypeError for fields that are
        missing or unknown, and pydantic's ValidationError. With an `id` that is taken the commit raises
        ConcurrencyError.
        """
        cls = self._aggregate_type
        if given := [name for name in _KEPT if name in fields]:
            raise TypeError(f"{cls.__name__}.{given[0]} is kept by the library and cannot be given")
        root = cls(self._roots.new_id() if id is None else id)
        root.update(**fields)
        self.save(root)
        return root

    async def get(self, id: UUID, *, expected_version: int | None = None) -> R:
        """The root with this id. Raises NotFoundError if it never was, DeletedError if it was and is no more, and
        ConcurrencyError if it is not at the `expected_version`; such an error is not retried.
        """
        root = await self.get_or_new(id)
        if not root.exists:
            raise NotFoundError(kind=self._aggregate_type.__name__, identifier=str(id))
        require_version(root, expected_version)
        return root

    async def get_or_new(self, id: UUID) -> R:
        """The root with this id, or a new one, which is created if something is set in it. DeletedError if it was."""
        root = await self._load(id)
        root.require_present()
        return root

    async def get_all(self, ids: Iterable[UUID]) -> list[R]:
        """Those with these ids, in their order, by one statement. Raises the error that `get` has for the first that
        is not there.
        """
        wanted = list(ids)
        rows = await self._rows({one for one in wanted if self._held(one) is None})
        for row in rows.values():
            await self._of(row)
        return [await self.get(one) for one in wanted]

    async def find(
        self,
        condition: Condition = Condition.TRUE,
        *,
        ordering: Ordering = Ordering(),  # noqa: B008  # it is frozen
        limit: int | None = None,
        after: str | None = None,
    ) -> Page[R]:
        """Those of which the condition is true, in this order (and then by id), after the cursor of the page before:
        all, or at most `limit`. What the unit of work has changed, created or deleted itself counts as it is by now.
        """
        search = self._search(condition, ordering, limit, after)
        page = await self._page(search)
        return Page(tuple([await self._of(row) for row in page]), next_cursor(search, page))

    async def stream(
        self,
        condition: Condition = Condition.TRUE,
        *,
        ordering: Ordering = Ordering(),  # noqa: B008  # it is frozen
    ) -> AsyncIterator[R]:
        """As `find`, one by one, however many there are: as they were when the first was asked for, by a cursor of the
        database on a connection of its own. In a query they are not kept, so that memory stays flat.

        Beside a session, whose transaction may have changed rows itself, it goes by pages in that transaction, each of
        the moment. Use `contextlib.aclosing` around it when the iteration may be left early.
        """
        search, own = self._beside(self._search(condition, ordering, None, None))
        size = _REVEALED_AT_ONCE if self._aggregate_type.__personal__ else 1
        async with aclosing(self._roots.stream_states(search, own)) as rows, aclosing(in_parts(rows, size)) as parts:
            async for part in parts:
                for row in await self._shown(part):
                    yield await (self._restored(row) if self._roots.is_read_only else self._of(row))

    def update(self, root: R, /, **fields: object) -> None:
        """Set several fields: all of them, or none if a value is wrong."""
        self._roots.track(root)
        root.update(**fields)

    def save(self, root: R, /) -> None:
        """Take in a root: one that was made by hand is created with the commit, and of one that was loaded elsewhere
        the changes are stored, if nobody else has changed it since.
        """
        root.require_present()
        if root.is_new and not root.recorded:
            root.begin(self._roots.now())
        self._roots.track(root)

    def add(self, aggregate: R) -> None:
        """As `save`."""
        self.save(aggregate)

    def delete(self, root: R, /) -> None:
        """Have it deleted with the commit. Whoever asks for it then gets a DeletedError."""
        self._roots.track(root)
        root.delete()

    async def refresh(self, root: R, /) -> None:
        """Make it what is stored now; changes of it that are not recorded yet are dropped. Raises the errors of `get`,
        and a ValueError if the unit of work has recorded changes of it already.
        """
        if root.recorded:
            raise ValueError(f"{root.stream} cannot be refreshed: the unit of work has recorded changes of it already")
        fresh = await self._loaded(root.id)
        if fresh.is_new:
            raise NotFoundError(kind=self._aggregate_type.__name__, identifier=str(root.id))
        fresh.require_present()
        root.become(fresh)
        self._roots.track(root)

    async def _load(self, id: UUID) -> R:
        if (known := self._held(id)) is not None:
            return known
        return self._track(await self._loaded(id))

    async def _loaded(self, id: UUID) -> R:
        rows = await self._rows({id})
        return await self._restored(rows[id]) if id in rows else await self._replayed(id)

    async def _of(self, row: RootState) -> R:
        """The one object that the unit of work has for this row."""
        known = self._held(row.id)
        return self._track(await self._restored(row)) if known is None else known

    async def _restored(self, row: RootState) -> R:
        """A new object for a row, or folded from its events where the code cannot read the row any more."""
        root = self._aggregate_type(row.id)
        try:
            restore(root, row)
        except ValidationError:
            return await self._replayed(row.id)
        return root

    async def _replayed(self, id: UUID) -> R:
        root = await self._folded(self._aggregate_type(id))
        if root.is_new:
            root.created_at = root.updated_at = self._roots.now()
        return root

    async def _rows(self, ids: Collection[UUID]) -> dict[UUID, RootState]:
        if not ids:
            return {}
        category, tenant = self._aggregate_type.__category__, self._roots.tenant
        read = self._roots.read_few if len(ids) <= FEW else self._roots.read
        work = partial(read_states, tables=self._tables, tenant=tenant, category=category, ids=ids)
        rows = await read(work)
        return {row.id: row for row in await self._shown(list(rows.values()))}

    async def _page(self, search: Search) -> list[RootState]:
        search, own = self._beside(search)
        stored = await self._roots.read(partial(find_states, tables=self._tables, search=search))
        return merge(search, await self._shown(stored), own)

    async def _shown(self, rows: Sequence[RootState]) -> Sequence[RootState]:
        """With the personal values that they hold."""
        cls = self._aggregate_type
        return rows if self._reveal is None or not cls.__personal__ else await self._reveal.states(cls, rows)

    def _beside(self, search: Search) -> tuple[Search, list[RootState]]:
        """The search in the database without what may be otherwise in the unit of work, and how that is."""
        touched = [root for root in self._mine() if root.is_touched]
        own = [present_row(root) for root in touched if root.exists]
        return replace(search, but=frozenset(root.id for root in touched)), own

    def _search(self, condition: Condition, ordering: Ordering, limit: int | None, after: str | None) -> Search:
        return Search(self._roots.tenant, self._aggregate_type.__category__, condition, ordering, limit, after)

    def _mine(self) -> list[R]:
        return [held for held in self._roots.held() if isinstance(held, self._aggregate_type)]

    def _held(self, id: UUID) -> R | None:
        known = self._roots.tracked(self._aggregate_type(id).stream)
        return None if known is None else self._same_type(known)

    def _track(self, root: R) -> R:
        """Somebody else may have loaded it while this one was being loaded; the first stays."""
        known = self._held(root.id)
        if known is None:
            self._roots.track(root)
        return root if known is None else known
