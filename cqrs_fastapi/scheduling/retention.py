"""Deletes what nobody needs to remember any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta

import structlog
from sqlalchemy import ColumnElement, Connection, Table, delete, func, select, tuple_

from cqrs_fastapi.scheduling.job import Job
from cqrs_fastapi.scheduling.tick import Tick
from cqrs_fastapi.scheduling.triggers import Every
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.tables import Tables

log = structlog.get_logger("cqrs_fastapi")

RETENTION_JOB = "cqrs.retention"
BATCH = 10_000
"""Rows for one transaction, so that nobody waits long for it."""


_Old = Callable[[Connection, Tables, timedelta], ColumnElement[bool]]
"""What makes a row of a table old."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many rows went. `more` is left for the next tick, since the time was over."""

    inbox: int
    job_runs: int
    idempotency: int
    more: bool
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """A job that deletes inbox rows, finished runs of jobs, records of idempotency keys and counts of attempts older
    than `settings.retention`. The inbox row of a parked message stays for as long as its letter.

    Each batch is a transaction of its own, and half the command timeout is all the time it takes for one tick. The
    newest run of each job stays, however old: by it a scheduler knows what was run last.
    """

    database: Database
    settings: Settings
    batch: int = BATCH

    async def __call__(self, tick: Tick, /) -> None:
        deleted = await self.delete_old()
        log.info("retention", **asdict(deleted), tick=tick.scheduled_at)

    async def delete_old(self) -> Deleted:
        """Delete what is old by the database's clock, batch after batch."""
        deadline = asyncio.get_running_loop().time() + self.settings.command_timeout.total_seconds() / 2
        inbox, inbox_left = await self._empty(_old_inbox, self.database.tables.inbox, deadline)
        runs, runs_left = await self._empty(_old_runs, self.database.tables.job_runs, deadline)
        records, records_left = await self._empty(_old_records, self.database.tables.idempotency, deadline)
        counts, counts_left = await self._empty(_old_attempts, self.database.tables.attempts, deadline)
        more = inbox_left or runs_left or records_left or counts_left
        return Deleted(inbox, runs, records, more, counts)

    async def _empty(self, old: _Old, table: Table, deadline: float) -> tuple[int, bool]:
        """How many rows were deleted, and whether some may be left."""
        total = 0
        while asyncio.get_running_loop().time() < deadline:
            count = await self.database.write(lambda connection: self._batch(connection, old, table))
            total += count
            if count < self.batch:
                return total, False
        return total, True

    def _batch(self, connection: Connection, old: _Old, table: Table) -> int:
        key = tuple_(*table.primary_key.columns)
        condition = old(connection, self.database.tables, self.settings.retention)
        chosen = select(*table.primary_key.columns).where(condition).limit(self.batch)
        return connection.execute(delete(table).where(key.in_(chosen))).rowcount


def retention_job(database: Database, settings: Settings) -> Job:
    """The job itself, every full hour."""
    return Job(RETENTION_JOB, Every(timedelta(hours=1)), Retention(database, settings))


def _old_inbox(connection: Connection, tables: Tables, retention: timedelta) -> ColumnElement[bool]:
    """A message that is parked would be handled beside its letter if its row were gone and it came again."""
    old = tables.inbox.c.received_at < database_now(connection, after=-retention)
    return old & (tables.inbox.c.status != "parked")


def _old_attempts(connection: Connection, tables: Tables, retention: timedelta) -> ColumnElement[bool]:
    return tables.attempts.c.counted_at < database_now(connection, after=-retention)


def _old_records(connection: Connection, tables: Tables, retention: timedelta) -> ColumnElement[bool]:
    return tables.idempotency.c.created_at < database_now(connection, after=-retention)


def _old_runs(connection: Connection, tables: Tables, retention: timedelta) -> ColumnElement[bool]:
    runs = tables.job_runs
    newer = runs.alias("newer")
    newest = select(func.max(newer.c.tick)).where(newer.c.job == runs.c.job).scalar_subquery()
    return (runs.c.finished_at < database_now(connection, after=-retention)) & (runs.c.tick < newest)
