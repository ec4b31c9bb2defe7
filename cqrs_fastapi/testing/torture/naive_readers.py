"""Two readers as many event stores have them, by plain SQL. Both are wrong on PostgreSQL.

They show that the load is hard enough: a check that finds nothing wrong with these would prove nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from sqlalchemy import Connection, bindparam, select, text

from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.testing.torture.field import DRIVER_ERRORS
from cqrs_fastapi.testing.torture.ledger import Ledger
from cqrs_fastapi.testing.torture.readers import deliver_all, last_position

_PAGE = 500
_POLL = 0.02


class NaivePositionReader:
    """`position > last`: it never looks again below the highest position that it has seen."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database, self._ledger = database, ledger
        self._last = 0
        events = database.tables.events
        self._query = (
            select(events.c.position, events.c.message_id, events.c.stream, events.c.version)
            .where(events.c.position > bindparam("last"))
            .order_by(events.c.position)
            .limit(_PAGE)
        )

    async def open(self) -> None:
        """It needs nothing."""

    async def run(self) -> None:
        await _look_on(self._look)

    async def is_done(self) -> bool:
        return self._last >= await self._database.read(partial(last_position, tables=self._database.tables))

    async def _look(self) -> bool:
        rows = await self._database.read(lambda it: it.execute(self._query, {"last": self._last}).all())
        if rows:
            self._last = rows[-1].position
            deliver_all(self._ledger, [(row.message_id, row.stream, row.version) for row in rows])
        return bool(rows)


class NaiveXidReader:
    """`(xid, position)`, below the oldest transaction that is still open.

    It skips nothing, but a transaction id is given with the first write and a stream's lock maybe much later: the order
    of ids is not that of versions. And any open transaction that has written anything anywhere holds it back.
    """

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database, self._ledger = database, ledger
        self._xid, self._position = "0", 0
        events = database.tables.events.name
        beyond = "(transaction_id, position) > (CAST(CAST(:xid AS text) AS xid8), :position)"
        self._query = text(
            f"SELECT transaction_id::text AS xid, position, message_id, stream, version FROM {events}"  # noqa: S608  # a name of our own
            f" WHERE {beyond} AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())"
            f" ORDER BY transaction_id, position LIMIT {_PAGE}"
        )
        self._rest = text(f"SELECT EXISTS (SELECT FROM {events} WHERE {beyond})")  # noqa: S608  # a name of our own

    async def open(self) -> None:
        await self._database.write(self._add_column)

    async def run(self) -> None:
        await _look_on(self._look)

    async def is_done(self) -> bool:
        return not await self._database.read(lambda it: it.execute(self._rest, self._place).scalar_one())

    @property
    def _place(self) -> dict[str, object]:
        return {"xid": self._xid, "position": self._position}

    async def _look(self) -> bool:
        rows = await self._database.read(lambda it: it.execute(self._query, self._place).all())
        if rows:
            self._xid, self._position = rows[-1].xid, rows[-1].position
            deliver_all(self._ledger, [(row.message_id, row.stream, row.version) for row in rows])
        return bool(rows)

    def _add_column(self, connection: Connection) -> None:
        """What stores of this kind have from the start."""
        events = self._database.tables.events.name
        connection.exec_driver_sql(
            f"ALTER TABLE {events} ADD COLUMN transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id()"
        )
        connection.exec_driver_sql(f"CREATE INDEX ON {events} (transaction_id, position)")


async def _look_on(look: Callable[[], Awaitable[bool]]) -> None:
    while True:
        try:
            found = await look()
        except (UnavailableError, *DRIVER_ERRORS):
            found = False
        if not found:
            await asyncio.sleep(_POLL)
