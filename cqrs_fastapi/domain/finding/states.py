"""The rows of root states: written in the transaction that records the change, read by id."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, case, select

from cqrs_fastapi.domain.finding.places import ID, RootState
from cqrs_fastapi.domain.finding.search import columns
from cqrs_fastapi.domain.finding.spelling import spelling_of
from cqrs_fastapi.messages.json_codec import render_json
from cqrs_fastapi.storage.column_types import JsonText
from cqrs_fastapi.storage.dialects import upsert_of
from cqrs_fastapi.storage.tables import Tables


def write_states(
    connection: Connection, tables: Tables, tenant: str, category: str, states: Sequence[RootState]
) -> None:
    """Each as its row is from now on, whether there was one or not. A state never takes the place of one with a higher
    version, so that whoever writes states anew cannot undo a change. Give states that `render_state` has made.
    """
    if states:
        rows = [_row(tenant, category, state) for state in sorted(states, key=lambda state: state.id)]
        connection.execute(_upsert(connection.dialect.name, tables), rows)


def mark_deleted(
    connection: Connection, tables: Tables, tenant: str, category: str, id: UUID, *, version: int, at: datetime
) -> None:
    """Keep the row without its state; make such a row if there was none. `version` is that of the deletion."""
    write_states(connection, tables, tenant, category, [RootState(id, version, {}, at, at, deleted_at=at)])


def read_states(
    connection: Connection, tables: Tables, tenant: str, category: str, ids: Collection[UUID]
) -> dict[UUID, RootState]:
    """Those that have a row, deleted ones with their `deleted_at`."""
    rows = tables.root_states.c
    wanted = spelling_of(connection.dialect.name, tables).one_of(ID, rows.id, sorted(map(str, ids)))
    query = select(*columns(tables)).where(rows.tenant == tenant, rows.category == category, wanted)
    return {row.id: row for row in (RootState(*found) for found in connection.execute(query))}


def _row(tenant: str, category: str, state: RootState) -> Mapping[str, Any]:
    return {**state._asdict(), "state": render_json(state.state), "tenant": tenant, "category": category}


@lru_cache(maxsize=16)
def _upsert(dialect: str, tables: Tables) -> Any:
    table = tables.root_states
    # The text is rendered once, without escapes in the names of fields, which SQLite would not find then.
    insert = upsert_of(dialect, table).values(state=bindparam("state", type_=JsonText()))
    given = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[table.c.tenant, table.c.category, table.c.id],
        set_={
            "version": given.version,
            "state": given.state,
            "created_at": case((given.deleted_at.is_(None), given.created_at), else_=table.c.created_at),
            "updated_at": given.updated_at,
            "deleted_at": given.deleted_at,
        },
        where=table.c.version <= given.version,
    )
