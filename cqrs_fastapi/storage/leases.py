"""Leases with an epoch, timed by the database's clock alone.

A holder's clock decides nothing: a process that was stopped goes on and believes itself the owner; `fenced` refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.storage.dialects import database_now, is_postgres, upsert
from cqrs_fastapi.storage.tables import Tables


class LeaseLostError(CqrsError):
    """Somebody else holds the lease now, or it was released: stop what was done under it."""

    code = "lease_lost"

    def __init__(self, *, name: str, epoch: int) -> None:
        self.name, self.epoch = name, epoch
        super().__init__(f"lease {name!r} is no longer held at epoch {epoch}; stop, and acquire it again")


@dataclass(frozen=True, slots=True)
class Lease:
    """One holding of a name. The epoch grows with each, so that an earlier holder is told apart from a later one."""

    name: str
    owner: UUID
    epoch: int
    duration: timedelta


def acquire(connection: Connection, tables: Tables, name: str, owner: UUID, duration: timedelta) -> Lease | None:
    """The lease, at a new epoch, if it is free, expired or the owner's own; None while another holds it."""
    leases, now = tables.leases, database_now(connection)
    wanted = {"owner": owner, "expires_at": database_now(connection, after=duration)}
    statement = upsert(connection, leases).values(name=name, epoch=1, **wanted)
    taken = statement.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={"epoch": leases.c.epoch + 1, **wanted},
        where=or_(leases.c.owner.is_(None), leases.c.owner == owner, leases.c.expires_at <= now),
    )
    epoch = connection.execute(taken.returning(leases.c.epoch)).scalar_one_or_none()
    return None if epoch is None else Lease(name, owner, epoch, duration)


def is_abandoned(connection: Connection, tables: Tables, name: str) -> bool:
    """Whether somebody has held it and never gave it back. Asked before `acquire`, in its transaction, it tells whether
    the holder before has died, or was stopped for longer than its lease.
    """
    leases = tables.leases
    query = select(leases.c.owner).where(leases.c.name == name).with_for_update()
    return connection.execute(query).scalar() is not None


def renew(connection: Connection, tables: Tables, lease: Lease) -> None:
    """Holds it for its duration from now on. An expired lease that nobody took can be renewed; else LeaseLostError."""
    expires_at = database_now(connection, after=lease.duration)
    changed = connection.execute(update(tables.leases).where(_held(tables, lease)).values(expires_at=expires_at))
    if changed.rowcount != 1:
        raise LeaseLostError(name=lease.name, epoch=lease.epoch)


def release(connection: Connection, tables: Tables, lease: Lease) -> None:
    """Lets the next one in at once. A lease that was lost is left alone. The row stays, since the epoch lives in it."""
    freed = {"owner": None, "expires_at": database_now(connection)}
    connection.execute(update(tables.leases).where(_held(tables, lease)).values(**freed))


def fenced(connection: Connection, tables: Tables, lease: Lease) -> None:
    """Until this transaction ends nobody takes the lease over; LeaseLostError if somebody has.

    On PostgreSQL the row is locked FOR SHARE, and the transaction may idle no longer than the lease lasts, so that a
    stopped holder does not block its successor. On SQLite a transaction that writes excludes all others.
    """
    leases = tables.leases
    query = select(leases.c.epoch).where(_held(tables, lease)).with_for_update(read=True)
    if is_postgres(connection):
        milliseconds = str(max(1, int(lease.duration.total_seconds() * 1000)))
        timeout = func.set_config("idle_in_transaction_session_timeout", milliseconds, True)  # of this transaction only
        query = query.add_columns(timeout)
    if connection.execute(query).first() is None:
        raise LeaseLostError(name=lease.name, epoch=lease.epoch)


def _held(tables: Tables, lease: Lease) -> ColumnElement[bool]:
    leases = tables.leases
    return and_(leases.c.name == lease.name, leases.c.owner == lease.owner, leases.c.epoch == lease.epoch)
