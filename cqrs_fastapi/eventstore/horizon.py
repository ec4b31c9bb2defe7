"""How far the store may be read: up to W, below which no event can appear any more.

Positions are drawn before the commit, so a reader that asks for all above its checkpoint passes over those that are
committed later. On PostgreSQL every append holds a floor while it is under way, a shared advisory lock on the position
that the sequence had reached: what it stores lies above. SQLite has one writer, and needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, RowMapping, bindparam, text

from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.storage.dialects import is_postgres
from cqrs_fastapi.storage.tables import Tables

_RING = 1 << 31
_HALF = 1 << 30

_REACHED = text("""
SELECT s.source::oid::bigint AS source, coalesce(pg_sequence_last_value(s.source), 0) AS highest,
    pg_is_in_recovery() AS standby, extract(epoch FROM pg_postmaster_start_time())::text AS server
FROM (SELECT pg_get_serial_sequence(:events, 'position')::regclass AS source) AS s
""")
_SERVER = text("SELECT extract(epoch FROM pg_postmaster_start_time())::text")
# Two-key locks have objsubid 2. A lock that waits (somebody holds the same key exclusively) is none yet: its positions
# will be drawn after it was granted, and so above every number that has been read until then.
_FLOOR = """
l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.classid = CAST(:source AS oid)
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
"""
_FLOORS = text(f"SELECT l.objid::bigint AS object FROM pg_locks l WHERE {_FLOOR}").bindparams(  # noqa: S608  # a constant
    bindparam("source", type_=BigInteger)
)
_HOLDERS = text(
    "SELECT l.objid::bigint AS object, l.pid,"  # noqa: S608  # a constant
    " CASE WHEN l.pid IS NULL THEN 'prepared' ELSE coalesce(a.state, 'unknown') END AS state,"
    " coalesce(a.query, 'PREPARE TRANSACTION ' || quote_literal(p.gid), '') AS query,"
    " extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS seconds"
    " FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
    " LEFT JOIN LATERAL (SELECT x.gid, x.prepared FROM pg_prepared_xacts x JOIN pg_locks own"
    " ON own.locktype = 'transactionid' AND own.transactionid = x.transaction AND own.pid IS NULL"
    " WHERE own.virtualtransaction = l.virtualtransaction LIMIT 1) p ON l.pid IS NULL"
    f" WHERE {_FLOOR}"
).bindparams(bindparam("source", type_=BigInteger))
_SQLITE_HIGHEST = text("SELECT seq FROM sqlite_sequence WHERE name = :events")


@dataclass(frozen=True, slots=True)
class Horizon:
    """`highest` is the last position drawn, `safe` is W. Neither tells anything about another `server`.

    All events up to `safe` that will ever be are committed when this is known, so it stays true however old it gets.
    """

    highest: int
    safe: int
    server: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that holds the readers back. `pid` is None for a prepared one, which belongs to no process."""

    pid: int | None
    state: str
    query: str
    seconds: float
    position: int


def read_horizon(connection: Connection, tables: Tables) -> Horizon:
    """In no transaction or at READ COMMITTED, so that each statement sees what is committed when it begins.

    UnavailableError on a standby, which knows no locks of its primary.
    """
    if not is_postgres(connection):
        found = connection.execute(_SQLITE_HIGHEST, {"events": tables.events.name}).scalar()
        return Horizon(found or 0, found or 0)
    # 1. The last position that was drawn: who takes a floor later draws higher ones.
    reached = _reached(connection, tables)
    highest: int = reached["highest"]
    # 2. In a later statement the floors: who is not among them has ended, visibly to the statement after this one.
    held = connection.execute(_FLOORS, {"source": reached["source"]}).scalars()
    floors = [floor for lock in held if (floor := floor_of(lock, highest)) is not None]
    return Horizon(highest, min([highest, *floors]), reached["server"])


def read_server(connection: Connection) -> str:
    """What `Horizon.server` says of the server that answers here; it changes with each start and with a failover."""
    return str(connection.execute(_SERVER).scalar_one()) if is_postgres(connection) else ""


def holders(connection: Connection, tables: Tables) -> list[Holder]:
    """Who holds a floor, the lowest first. A query of another role is hidden unless the reader may see it."""
    if not is_postgres(connection):
        return []
    reached = _reached(connection, tables)
    rows = connection.execute(_HOLDERS, {"source": reached["source"]}).mappings()
    found = (_holder(row, reached["highest"]) for row in rows)
    return sorted((one for one in found if one is not None), key=lambda one: (one.position, one.pid or 0))


def floor_of(lock: int, highest: int) -> int | None:
    """The position that a lock's 31 bits stand for, which is near `highest`; None if it was drawn after that."""
    distance = (lock - highest + _HALF) % _RING - _HALF
    return highest + distance if distance <= 0 else None


def _reached(connection: Connection, tables: Tables) -> Mapping[str, Any] | RowMapping:
    schema, name = tables.events.schema, tables.events.name
    qualified = f'"{schema}".{name}' if schema else name
    row = connection.execute(_REACHED, {"events": qualified}).mappings().one()
    if row["standby"]:
        raise UnavailableError("the database is a standby, which cannot tell what is committed; connect to the primary")
    return row


def _holder(row: RowMapping, highest: int) -> Holder | None:
    position = floor_of(row["object"], highest)
    if position is None:
        return None
    return Holder(row["pid"], row["state"], row["query"], max(0.0, row["seconds"] or 0.0), position)
