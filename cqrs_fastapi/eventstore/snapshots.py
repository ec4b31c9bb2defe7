"""Snapshots in the database: a cache of what the events of a stream have made. The events alone are the truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Connection, and_, bindparam, delete, exists, or_, select

from cqrs_fastapi.storage.dialects import upsert_of
from cqrs_fastapi.storage.prepared import Prepared, prepared
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the events of a stream up to `version` have made. `message_id` is that of the last of them, by which the
    snapshot is known to belong to this history; `fingerprint` stands for the code that folded it.
    """

    tenant: str
    stream: str
    version: int
    message_id: UUID
    fingerprint: str
    state: bytes
    """JSON, or that sealed."""
    taken_at: datetime
    key_ids: frozenset[UUID] = frozenset()
    """The keys of those whose data it holds; it is stored sealed with them."""


def to_bytes(state: str) -> bytes:
    """The state as it is stored."""
    return state.encode()


def from_bytes(stored: bytes) -> str:
    """The state of a stored snapshot."""
    return bytes(stored).decode()


def write_snapshot(connection: Connection, tables: Tables, snapshot: Snapshot) -> bool:
    """Store it in the place of an older one, of one by other code at this version, or of one that fits no longer; say
    whether it was stored. It is not where its event is gone: a stream that was deleted meanwhile leaves nothing behind.
    """
    values = {
        "of_tenant": snapshot.tenant,
        "of_stream": snapshot.stream,
        "at_version": snapshot.version,
        "at_message_id": snapshot.message_id,
        "by_fingerprint": snapshot.fingerprint,
        "with_state": snapshot.state,
        "of_subjects": to_json(sorted(snapshot.key_ids)).decode(),
        "at_time": snapshot.taken_at,
    }
    return bool(_write(tables, connection.dialect.name).rows(connection, values))


def delete_snapshot(connection: Connection, tables: Tables, stream: str, *, tenant: str) -> None:
    """Delete what is kept of the stream. Whoever deletes its events does so in the same transaction."""
    snapshots = tables.snapshots
    connection.execute(delete(snapshots).where(snapshots.c.tenant == tenant, snapshots.c.stream == stream))


@lru_cache(maxsize=16)
def _write(tables: Tables, dialect: str) -> Prepared:
    streams, events, snapshots = tables.streams.c, tables.events, tables.snapshots
    version = bindparam("at_version", type_=snapshots.c.version.type)
    # The lock on the row of the stream lets appends pass and keeps out whoever takes its events away: what is deleted
    # first is missed here, and what comes later finds this snapshot and deletes it.
    source = (
        select(
            streams.tenant,
            streams.stream,
            version,
            bindparam("at_message_id", type_=snapshots.c.message_id.type),
            bindparam("by_fingerprint", type_=snapshots.c.fingerprint.type),
            bindparam("with_state", type_=snapshots.c.state.type),
            bindparam("of_subjects", type_=snapshots.c.subjects.type),
            bindparam("at_time", type_=snapshots.c.taken_at.type),
        )
        .where(
            streams.tenant == bindparam("of_tenant"),
            streams.stream == bindparam("of_stream"),
            streams.deleted_at.is_(None),
            streams.truncated_before <= version,
            exists().where(
                events.c.tenant == streams.tenant,
                events.c.stream == streams.stream,
                events.c.version == version,
                events.c.message_id == bindparam("at_message_id", type_=snapshots.c.message_id.type),
            ),
        )
        .with_for_update(read=True, key_share=True, of=tables.streams)
    )
    columns = ("tenant", "stream", "version", "message_id", "fingerprint", "state", "subjects", "taken_at")
    insert = upsert_of(dialect, snapshots).from_select(columns, source, include_defaults=False)
    replacing: dict[str, Any] = {name: insert.excluded[name] for name in columns[2:]}
    return prepared(
        insert.on_conflict_do_update(
            index_elements=[snapshots.c.tenant, snapshots.c.stream],
            set_=replacing,
            where=or_(
                snapshots.c.version < insert.excluded.version,
                and_(
                    snapshots.c.version == insert.excluded.version,
                    snapshots.c.fingerprint != insert.excluded.fingerprint,
                ),
                ~exists().where(
                    events.c.tenant == snapshots.c.tenant,
                    events.c.stream == snapshots.c.stream,
                    events.c.version == snapshots.c.version,
                    events.c.message_id == snapshots.c.message_id,
                ),
            ),
        ).returning(snapshots.c.version)
    )
