"""Reads the events of all streams by position, a page at a time, up to where nothing can appear any more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import Connection, false, func, select

from cqrs_fastapi.errors import AheadOfStoreError, ConfigurationError, UnavailableError
from cqrs_fastapi.eventstore.horizon import Horizon, read_horizon, read_server
from cqrs_fastapi.eventstore.read import stored_columns
from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.storage.dialects import is_postgres
from cqrs_fastapi.storage.tables import Tables

EVERYBODY = None
"""All tenants at once: for tools that look after the store, never for handlers."""


@dataclass(frozen=True, slots=True)
class AllRange:
    """Events of a tenant, or of EVERYBODY, with positions above `after`, of these types and categories (all, if empty).

    `archived`: those of archived streams too.
    """

    tenant: str | None
    after: int = 0
    types: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    archived: bool = False

    def rest(self, last: StoredEvent) -> AllRange:
        """What remains after `last`."""
        return replace(self, after=last.position)


def read_first(
    connection: Connection, tables: Tables, wanted: AllRange, at_most: int
) -> tuple[Horizon, list[StoredEvent]]:
    """How far may be read, and the first events up to there.

    AheadOfStoreError if the store has not reached `after`; UnavailableError on a standby.
    """
    _require_read_committed(connection)
    horizon = read_horizon(connection, tables)
    if wanted.after > horizon.highest:
        raise AheadOfStoreError(what="the store", asked_for=wanted.after, reached=horizon.highest)
    # Only a later statement sees all that had been committed when the horizon was read.
    return horizon, _read(connection, tables, wanted, horizon.safe, at_most)


def read_next(
    connection: Connection, tables: Tables, wanted: AllRange, horizon: Horizon, at_most: int
) -> list[StoredEvent]:
    """The next events up to the horizon. UnavailableError if another server answers than the one that told it."""
    if read_server(connection) != horizon.server:
        raise UnavailableError(
            f"the database server was restarted or replaced while all streams were being read; read on after position "
            f"{wanted.after}"
        )
    return _read(connection, tables, wanted, horizon.safe, at_most)


def _read(connection: Connection, tables: Tables, wanted: AllRange, until: int, at_most: int) -> list[StoredEvent]:
    events = tables.events.c
    query = (
        select(*stored_columns(tables))
        .where(events.position > wanted.after, events.position <= until)
        .order_by(events.position)
        .limit(at_most)
    )
    if wanted.tenant is not EVERYBODY:
        query = query.where(events.tenant == wanted.tenant)
    if wanted.types:
        query = query.where(events.type.in_(wanted.types))
    if wanted.categories:
        query = query.where(events.category.in_(wanted.categories))
    if not wanted.archived:
        query = query.where(events.archived == false())
    return [StoredEvent(*row) for row in connection.execute(query)]


def _require_read_committed(connection: Connection) -> None:
    """A transaction that keeps to one state of the database would pass over what is committed after it has begun."""
    if not is_postgres(connection) or connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return
    level = connection.execute(select(func.current_setting("transaction_isolation"))).scalar_one()
    if level != "read committed":
        raise ConfigurationError(
            f"all streams cannot be read in a transaction that is {level}; use one that is READ COMMITTED, or read "
            "them in a unit of work without a session"
        )
