"""Finds root entities by their rows, and puts in what a unit of work has changed and not yet written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Executable, select

from cqrs_fastapi.domain.finding import keyset
from cqrs_fastapi.domain.finding.conditions import Condition, require_condition
from cqrs_fastapi.domain.finding.memory import matches, sort_key
from cqrs_fastapi.domain.finding.ordering import BY_ID, Ordering
from cqrs_fastapi.domain.finding.places import ID, RootState
from cqrs_fastapi.domain.finding.spelling import spelling_of
from cqrs_fastapi.domain.finding.sql import order_by, where
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Search:
    """Which root entities of a category are wanted, in which order. Deleted ones are never found."""

    tenant: str
    category: str
    condition: Condition = Condition.TRUE
    ordering: Ordering = BY_ID
    limit: int | None = None
    """The most that are found; all, if it is None."""
    after: str | None = None
    """The cursor of the page before."""
    but: frozenset[UUID] = frozenset()
    """Not looked for in the database: the unit of work holds them, changed, created or deleted."""

    def __post_init__(self) -> None:
        require_condition(self.condition)
        if not isinstance(self.ordering, Ordering):
            raise TypeError(f"{self.ordering!r} is no ordering; write Product.price.ascending()")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise ValueError(f"limit is {self.limit!r}; write the number of entities of a page, 1 or more, or None")

    def whole_condition(self) -> Condition:
        """With the cursor's. CursorError for one that is none of this search."""
        if self.after is None:
            return self.condition
        return keyset.both(self.condition, keyset.after(self.category, self.ordering, self.after))


def find_states(connection: Connection, tables: Tables, search: Search) -> list[RootState]:
    """What the database holds of it, by one statement."""
    rows = connection.execute(statement(connection.dialect.name, tables, search))
    return [RootState(*row) for row in rows]


def find_in(search: Search, states: Iterable[RootState]) -> list[RootState]:
    """The same of states in memory, all of which are of the search's tenant and category."""
    condition = search.whole_condition()
    found = [state for state in states if matches(condition, state)]
    found.sort(key=lambda state: sort_key(search.ordering, state))
    return found[: search.limit]


def merge(search: Search, stored: Sequence[RootState], own: Iterable[RootState]) -> list[RootState]:
    """The page that the database would have given if `own` had been written: `stored` is what `find_states` has found,
    `own` are the states of all entities in `but`; deleted ones may be left out.
    """
    changed = find_in(search, own)
    if not changed:
        return list(stored)
    page = sorted((*stored, *changed), key=lambda state: sort_key(search.ordering, state))
    return page[: search.limit]


def next_cursor(search: Search, found: Sequence[RootState]) -> str | None:
    """What `after` of the next page is; None if this one was the last. A page that is exactly full has a next one,
    which may be empty.
    """
    if search.limit is None or len(found) < search.limit:
        return None
    return keyset.cursor_of(search.category, search.ordering, found[-1])


def statement(dialect: str, tables: Tables, search: Search) -> Executable:
    """Of one shape for all searches of one shape, so that it is compiled once."""
    rows = tables.root_states.c
    spelling = spelling_of(dialect, tables)
    found = (
        select(*columns(tables))
        .where(
            rows.tenant == search.tenant,
            rows.category == search.category,
            rows.deleted_at.is_(None),
            where(search.whole_condition(), spelling),
        )
        .order_by(*order_by(search.ordering, spelling))
    )
    if search.but:
        found = found.where(spelling.none_of(ID, rows.id, sorted(map(str, search.but))))
    return found if search.limit is None else found.limit(search.limit)


def columns(tables: Tables) -> Sequence[Any]:
    """Those of a RootState, in its order."""
    rows = tables.root_states.c
    return rows.id, rows.version, rows.state, rows.created_at, rows.updated_at, rows.deleted_at
