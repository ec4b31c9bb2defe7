"""The statements of the event store, made once for a set of tables: making one costs more than running it on SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table, bindparam, insert, select, update

from cqrs_fastapi.storage.dialects import upsert_of
from cqrs_fastapi.storage.prepared import Prepared, prepared
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Statements:
    """Parameters of conditions begin with `of_`; `added` is a number of events."""

    state: Prepared
    """Version, archived and deleted_at of a stream."""
    create: Prepared
    """Gives the version of a new stream, and nothing where the stream exists."""
    raise_any: Prepared
    raise_exact: Prepared
    """Give the raised version, and nothing where the stream is not as expected."""
    insert_events: Prepared
    insert_outbox: Prepared


def statements_for(connection: Connection, tables: Tables) -> Statements:
    """The statements for these tables, in the connection's dialect."""
    return _statements(tables, connection.dialect.name)


@lru_cache(maxsize=16)
def _statements(tables: Tables, dialect: str) -> Statements:
    streams, events = tables.streams, tables.events
    this_stream = (streams.c.tenant == bindparam("of_tenant"), streams.c.stream == bindparam("of_stream"))
    raised = (
        update(streams)
        .where(*this_stream)
        .where(streams.c.archived.is_(False), streams.c.deleted_at.is_(None))
        .values(version=streams.c.version + bindparam("added"))
        .returning(streams.c.version)
    )
    create = upsert_of(dialect, streams).values(
        tenant=bindparam("tenant"),
        stream=bindparam("stream"),
        category=bindparam("category"),
        version=bindparam("version"),
    )
    return Statements(
        state=prepared(select(streams.c.version, streams.c.archived, streams.c.deleted_at).where(*this_stream)),
        create=prepared(create.on_conflict_do_nothing().returning(streams.c.version)),
        raise_any=prepared(raised),
        raise_exact=prepared(raised.where(streams.c.version == bindparam("exact"))),
        insert_events=_insert(events, but=("position", "archived")),
        insert_outbox=_insert(tables.outbox, but=("position",)),
    )


def _insert(table: Table, *, but: Sequence[str]) -> Prepared:
    values: dict[Any, Any] = {column: bindparam(column.key) for column in table.c if column.key not in but}
    return prepared(insert(table).values(values))
