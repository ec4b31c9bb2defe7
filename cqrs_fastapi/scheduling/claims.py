"""Who has which tick: rows of `job_runs`, written in the transaction of the job's effect.

The unique (job, tick) makes one effect of each tick, whatever else goes wrong. The lease of a job only spares several
schedulers the work of one tick, and keeps its runs from overlapping while they take no longer than the lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, func, literal, select

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.scheduling.triggers import Trigger
from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.columns import storable
from cqrs_fastapi.storage.dialects import database_now, upsert
from cqrs_fastapi.storage.tables import Tables

DONE = "done"
FAILED = "failed"
SKIPPED = "skipped"
"""Ticks from before a job was first seen, and those that a behavior kept from its handler."""

_LONGEST_ERROR = 2000


class AlreadyClaimedError(CqrsError):
    """Another run has this tick; the present transaction must leave nothing."""

    code = "already_claimed"


class TickNotDueError(CqrsError):
    """The database's clock has not reached the tick; the present transaction must leave nothing."""

    code = "tick_not_due"


@dataclass(frozen=True, slots=True)
class Claim:
    """One run's right to a tick. `started_at` is the database's clock when the run began."""

    job: str
    tick: datetime
    owner: UUID
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the database knows about a job. `tick` is the latest one, and `due` if nobody has it yet."""

    now: datetime
    tick: datetime | None
    due: bool
    held: bool
    """Somebody else is at work on a tick of this job."""
    previous: datetime | None


def lease_name(job: str) -> str:
    """How the lease of a job is called."""
    return f"job:{job}"


def look(connection: Connection, tables: Tables, job: str, trigger: Trigger, owner: UUID) -> Outlook:
    """Find the latest tick by the database's clock. Earlier ones that nobody took are given up for it."""
    now = connection.execute(select(database_now(connection))).scalar_one()
    tick = trigger.latest(now)
    if tick is None:
        return Outlook(now, None, due=False, held=False, previous=None)
    runs, leases = tables.job_runs, tables.leases
    newest = select(func.max(runs.c.tick)).where(runs.c.job == job).scalar_subquery()
    done = select(func.max(runs.c.tick)).where(runs.c.job == job, runs.c.status == DONE, runs.c.tick < tick)
    other = select(leases.c.name).where(
        leases.c.name == lease_name(job), leases.c.owner != owner, leases.c.expires_at > database_now(connection)
    )
    row = connection.execute(select(newest, done.scalar_subquery(), other.exists())).one()
    return Outlook(now, tick, due=row[0] is None or row[0] < tick, held=bool(row[2]), previous=row[1])


def begin(connection: Connection, tables: Tables, job: str, trigger: Trigger, owner: UUID) -> None:
    """The first time a job is seen, its ticks up to now are no business of anybody. Harmless at any other time."""
    runs = tables.job_runs
    now = connection.execute(select(database_now(connection))).scalar_one()
    tick = trigger.latest(now)
    known = connection.execute(select(runs.c.tick).where(runs.c.job == job).limit(1)).first()
    if tick is not None and known is None:
        settle(connection, tables, Claim(job, tick, owner, now), SKIPPED)


def claim(connection: Connection, tables: Tables, wanted: Claim) -> None:
    """Insert the row. Of several transactions with one (job, tick) one commits; the others wait for it and get
    AlreadyClaimedError. TickNotDueError if the database's clock was put back.
    """
    runs, tick = tables.job_runs, literal(wanted.tick, UtcDateTime())
    values: dict[Column[Any], ColumnElement[Any]] = {
        runs.c.job: literal(wanted.job),
        runs.c.tick: tick,
        runs.c.owner: literal(str(wanted.owner)),
        runs.c.status: literal(DONE),
        runs.c.started_at: literal(wanted.started_at, UtcDateTime()),
        runs.c.finished_at: database_now(connection),
    }
    due = select(*values.values()).where(tick <= database_now(connection))
    statement = upsert(connection, runs).from_select(list(values), due).on_conflict_do_nothing().returning(runs.c.job)
    if connection.execute(statement).scalar() is None:
        _refuse(connection, tables, wanted)


def settle(
    connection: Connection, tables: Tables, claim: Claim, status: str, error: BaseException | None = None
) -> None:
    """Record a tick without effect, so that nobody tries it again. One that is claimed already stays as it is."""
    row = {
        "job": claim.job,
        "tick": claim.tick,
        "owner": str(claim.owner),
        "status": status,
        "started_at": claim.started_at,
        "finished_at": database_now(connection),
        "error": None if error is None else _described(error),
    }
    connection.execute(upsert(connection, tables.job_runs).values(**row).on_conflict_do_nothing())


def lease_duration(timeout: timedelta) -> timedelta:
    """A run within its timeout holds the lease to its end; a run that crashed keeps others away no longer than this."""
    return timeout + timedelta(seconds=5)


def _refuse(connection: Connection, tables: Tables, wanted: Claim) -> None:
    runs, what = tables.job_runs, f"tick {wanted.tick.isoformat()} of job {wanted.job!r}"
    taken = select(runs.c.job).where(runs.c.job == wanted.job, runs.c.tick == wanted.tick)
    if connection.execute(taken).first() is None:
        raise TickNotDueError(f"{what} lies ahead of the database's clock")
    raise AlreadyClaimedError(f"{what} was claimed by another run")


def _described(error: BaseException) -> str:
    text = storable(f"{type(error).__name__}: {error}")
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"
