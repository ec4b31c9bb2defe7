"""Finds root entities one by one, however many there are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from cqrs_fastapi.domain.finding.memory import SortKey, sort_key
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.search import Search, find_in, find_states, merge, next_cursor, statement
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.driver_errors import before_commit
from cqrs_fastapi.storage.tables import Tables

Read = Callable[[Callable[[Connection], list[RootState]]], Awaitable[list[RootState]]]

AT_ONCE = 500
"""The most rows that are held at a time."""


async def stream_states(
    database: Database, search: Search, own: Iterable[RootState] = ()
) -> AsyncGenerator[RootState, None]:
    """What `find_states` and `merge` give, in that order, all of one state of the database: the one that it was in when
    the first was asked for.

    A cursor of the database stays open meanwhile, in a transaction that only reads, on a connection of its own. The
    connection is given back when the iteration ends. Who may leave it early writes `async with aclosing(...)`, so that
    this happens at once. UnavailableError if the database does not answer.
    """
    mine = _Own(search, find_in(search, own))
    left = search.limit
    with before_commit():
        async with database.session(read_only=True) as session:
            query = statement(database.dialect, database.tables, search)
            result = await session.stream(query, execution_options={"yield_per": AT_ONCE})
            try:
                async for row in result:
                    state = RootState(*row)
                    for found in (*mine.before(sort_key(search.ordering, state)), state):
                        if left == 0:
                            return
                        left = None if left is None else left - 1
                        yield found
            finally:
                await result.close()
    for found in mine.rest(left):
        yield found


async def stream_pages(
    read: Read, tables: Tables, search: Search, own: Sequence[RootState] = ()
) -> AsyncGenerator[RootState, None]:
    """The same where there is a transaction already, which may have written rows that nobody else sees: page by page
    by its own `read`, so that none waits for a second connection while it holds one.
    """
    after: str | None = None
    while True:
        page = replace(search, limit=AT_ONCE, after=after)
        found = merge(page, await read(partial(find_states, tables=tables, search=page)), own)
        for state in found:
            yield state
        if (after := next_cursor(page, found)) is None:
            return


async def in_parts(states: AsyncIterator[RootState], size: int) -> AsyncGenerator[list[RootState], None]:
    """So many together; fewer at the end."""
    part: list[RootState] = []
    async for state in states:
        part.append(state)
        if len(part) >= size:
            yield part
            part = []
    if part:
        yield part


class _Own:
    """The states that the database does not have, in order, each given once."""

    def __init__(self, search: Search, states: list[RootState]) -> None:
        self._search = search
        self._states = states
        self._given = 0

    def before(self, key: SortKey) -> Iterator[RootState]:
        while self._given < len(self._states):
            state = self._states[self._given]
            if not sort_key(self._search.ordering, state) < key:
                return
            self._given += 1
            yield state

    def rest(self, at_most: int | None) -> list[RootState]:
        rest = self._states[self._given :]
        return rest if at_most is None else rest[:at_most]
