"""Reads the store from a place on, for as long as somebody asks: nothing is skipped, nothing comes out of order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, bindparam, or_, select

from cqrs_fastapi.errors import CqrsError, UnavailableError
from cqrs_fastapi.eventstore.checkpoints import Checkpoint
from cqrs_fastapi.eventstore.horizon import Horizon, read_horizon, read_server
from cqrs_fastapi.eventstore.read import stored_columns
from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import Tables

log = structlog.get_logger("cqrs_fastapi")

PAGE = 1_000
LONGEST_POLL = 1.0
"""Seconds between two looks at a store in which nothing happens."""
LONGEST_POLL_WHEN_TOLD = 20.0
"""The same where every process tells of its commits."""
SOONEST_LOOK = 0.01
"""Seconds between two looks at a store in which much happens: the commits between them are found together."""
_SLOWER = 1.5


class HistoryMovedError(CqrsError):
    """Another server answers, or the same one was started again, or its sequence fell: the place must be verified."""

    code = "history_moved"

    def __init__(self) -> None:
        super().__init__("the database was started again or is another one; verify the checkpoint, then subscribe anew")


@dataclass(frozen=True, slots=True)
class Selection:
    """Events of these types or of these categories. One that names neither takes all."""

    types: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()


class Arrival(NamedTuple):
    """A stored event as a reader of all streams gets it."""

    stored: StoredEvent
    category: str
    tenant: str


@dataclass(frozen=True, slots=True)
class Batch:
    """In the order of positions. Nothing that was selected is left at or below `through`, now or later."""

    events: Sequence[Arrival]
    through: int
    highest: int


class SharedHorizon:
    """W for all subscriptions of a process: whoever waits longest looks for the others too, and nobody looks twice.

    Looks follow each other at `poll`, at once after `wake`, and more and more slowly while nothing happens: down to one
    in a second, or in twenty where it is woken by other processes too. A database that is away is waited for. It
    belongs to one event loop.
    """

    def __init__(self, database: Database, poll: timedelta, hears: Callable[[], bool] = lambda: False) -> None:
        """`hears` says whether it is woken by the commits of other processes too."""
        self._database = database
        self._hears = hears
        self._poll = poll.total_seconds()
        self._latest: Horizon | None = None
        self._turn = asyncio.Lock()
        self._woken = asyncio.Event()
        self._looks = self._newest = 0
        self._idle = 0
        self._looked_at = 0.0
        self._is_away = False

    def wake(self) -> None:
        """Something was committed: look now instead of at the next poll."""
        self._woken.set()

    async def beyond(self, seen: Horizon) -> Horizon:
        """Wait until W is above `seen.safe`, or until this is not the history any more that `seen` belongs to."""
        while True:
            latest = self._latest
            if latest is not None and _is_news(latest, seen):
                return latest
            async with self._turn:
                if self._latest is latest:
                    await self._look()

    async def fresh(self) -> Horizon:
        """Look now. UnavailableError if the database does not answer."""
        found, _ = await self._read()
        return found

    async def _look(self) -> None:
        await self._pause()
        self._woken.clear()  # before looking: what is committed from here on wakes the next look
        self._looked_at = asyncio.get_running_loop().time()
        try:
            found, before = await self._read()
        except UnavailableError as error:
            if not self._is_away:
                log.warning("database_unavailable", worker="subscriptions", error=str(error))
            self._is_away, self._idle = True, self._idle + 1
            return
        # While an append is under way its events may come at any moment.
        quiet = found == before and found.safe == found.highest
        self._is_away, self._idle = False, self._idle + 1 if quiet else 0

    async def _read(self) -> tuple[Horizon, Horizon | None]:
        """The horizon, which becomes the latest unless a later look was faster, and the one before."""
        self._looks += 1
        number = self._looks
        found = await self._database.read(partial(read_horizon, tables=self._database.tables))
        before = self._latest
        if number > self._newest:
            self._newest, self._latest = number, found
        return found, before

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        if self._latest is None and not self._is_away:
            return
        longest = LONGEST_POLL_WHEN_TOLD if self._hears() else LONGEST_POLL
        interval = max(self._poll, min(longest, self._poll * _SLOWER ** min(self._idle, 32)))
        try:
            async with asyncio.timeout_at(self._looked_at + interval):
                await self._woken.wait()
        except TimeoutError:
            return
        self._idle = 0
        await asyncio.sleep(max(0.0, self._looked_at + SOONEST_LOOK - loop.time()))


class Subscription:
    """One reader's way through the store. It moves no checkpoint: that is done where the events take effect."""

    def __init__(
        self, database: Database, shared: SharedHorizon, selection: Selection, start: Horizon, *, page: int = PAGE
    ) -> None:
        """Reads what comes after `start.safe`; `start` was read from the server on which the place was verified."""
        self._database = database
        self._shared = shared
        self._selection = selection
        self._seen = start
        self._page = page

    @property
    def through(self) -> int:
        """How far it has read."""
        return self._seen.safe

    async def next(self) -> Batch:
        """Wait for W to move, then read a page up to it; the batch is empty if nothing there was selected.

        Raises UnavailableError, and HistoryMovedError when the store behind it is not surely the same any more.
        """
        horizon = await self._shared.beyond(self._seen)
        if horizon.server != self._seen.server or horizon.highest < self._seen.highest:
            raise HistoryMovedError
        rows = partial(
            _read_page, tables=self._database.tables, selection=self._selection, after=self._seen.safe, horizon=horizon
        )
        events = await self._database.read(partial(rows, limit=self._page))
        through = horizon.safe if len(events) < self._page else events[-1].stored.position
        self._seen = replace(horizon, safe=through)
        return Batch(events, through, horizon.highest)

    async def __aiter__(self) -> AsyncIterator[Batch]:
        while True:
            yield await self.next()


def place_of(checkpoint: Checkpoint, horizon: Horizon) -> Horizon:
    """Where a subscription starts that goes on at a checkpoint, verified against this horizon."""
    return Horizon(horizon.highest, checkpoint.position, horizon.server)


def _is_news(latest: Horizon, seen: Horizon) -> bool:
    return latest.safe > seen.safe or latest.highest < seen.highest or latest.server != seen.server


def _read_page(
    connection: Connection, *, tables: Tables, selection: Selection, after: int, horizon: Horizon, limit: int
) -> list[Arrival]:
    """The third statement, later than those that have found W, and of the same server."""
    if read_server(connection) != horizon.server:
        raise HistoryMovedError
    return read_range(connection, tables, selection, after=after, through=horizon.safe, limit=limit)


def read_range(
    connection: Connection, tables: Tables, selection: Selection, *, after: int, through: int, limit: int
) -> list[Arrival]:
    """What was selected in this range of positions, which must be at or below some W that is known already."""
    values = {"after": after, "through": through, "at_most": limit}
    rows: Any = connection.execute(_page_of(tables, selection), values)
    return [Arrival(StoredEvent._make(row[:-2]), row[-2], row[-1]) for row in rows]


@lru_cache(maxsize=256)
def _page_of(tables: Tables, selection: Selection) -> Any:
    """Made once for a reader."""
    events = tables.events
    statement: Any = select(*stored_columns(tables), events.c.category, events.c.tenant).where(
        ~events.c.archived, events.c.position > bindparam("after"), events.c.position <= bindparam("through")
    )
    wanted = []
    if selection.types:
        wanted.append(events.c.type.in_(sorted(selection.types)))
    if selection.categories:
        wanted.append(events.c.category.in_(sorted(selection.categories)))
    if wanted:
        statement = statement.where(or_(*wanted))
    return statement.order_by(events.c.position).limit(bindparam("at_most"))
