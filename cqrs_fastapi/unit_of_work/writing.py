"""Writes what a unit of work has gathered: all of it in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.appender import FEW
from cqrs_fastapi.eventstore.records import AppendUnit
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.driver_errors import commit
from cqrs_fastapi.storage.tables import Tables
from cqrs_fastapi.unit_of_work.services import Services

Work = Callable[[Connection], None]


async def write(services: Services, unit: AppendUnit, joined: Sequence[Work]) -> None:
    """In a transaction of its own: that of the appender, shared with others, if nothing was joined."""
    database = services.database
    if not joined:
        await services.appender.append(unit)
    elif unit.rows <= FEW:
        await database.write_few(_work(database.tables, unit, joined))
    else:
        await database.write(_work(database.tables, unit, joined))


async def write_beside(
    session: AsyncSession, database: Database, unit: AppendUnit, joined: Sequence[Work], *, is_ours: bool
) -> None:
    """In the session's transaction, which is committed, unless somebody else will."""
    work = _work(database.tables, unit, joined) if unit.rows or joined else None
    if is_ours:
        await commit(session, work)
    else:
        if session.new or session.dirty or session.deleted:
            await session.flush()
        if work is not None:
            await database.run(session, work)


def _work(tables: Tables, unit: AppendUnit, joined: Sequence[Work]) -> Work:
    """It may run in another thread, where no message is current: it asks for nothing there."""

    def write(connection: Connection) -> None:
        for work in joined:
            work(connection)
        if unit.rows:
            append(connection, tables, unit)

    return write
