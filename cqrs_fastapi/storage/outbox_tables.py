"""The tables of what is to be sent."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy import text as sql_text

from cqrs_fastapi.storage.column_types import JsonText
from cqrs_fastapi.storage.columns import moment, position, tenant, text
from cqrs_fastapi.storage.names import Names


def outbox_table(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("outbox"),
        metadata,
        position(),
        Column("id", Uuid, nullable=False),
        text("aggregatetype"),
        text("aggregateid"),
        text("type"),
        text("topic"),
        Column("key", Text),
        Column("bucket", Integer, nullable=False),
        Column("headers", JsonText, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
        moment("available_at"),
        tenant(),
        moment("created_at"),
        PrimaryKeyConstraint("position", name=names.of("outbox_pk")),
        UniqueConstraint("id", name=names.of("outbox_id_key")),
        Index(names.of("outbox_bucket_position_ix"), "bucket", "position"),
        _partial(names.of("outbox_held_ix"), "bucket BETWEEN -1000 AND -1", "topic", "key", "position"),
        _partial(names.of("outbox_delayed_ix"), "bucket < -1000", "bucket", "available_at"),
        schema=names.schema,
        sqlite_autoincrement=True,
    )


def facts_table(metadata: MetaData, names: Names) -> Table:
    """What must stay as it was when the first row was written."""
    return Table(
        names.of("facts"),
        metadata,
        text("name"),
        text("value"),
        PrimaryKeyConstraint("name", name=names.of("facts_pk")),
        schema=names.schema,
    )


def relay_members_table(metadata: MetaData, names: Names) -> Table:
    """The relays that are at work, among which the buckets are divided."""
    return Table(
        names.of("relay_members"),
        metadata,
        text("service"),
        Column("member", Uuid, nullable=False),
        moment("expires_at"),
        PrimaryKeyConstraint("service", "member", name=names.of("relay_members_pk")),
        schema=names.schema,
    )


def _partial(name: str, condition: str, *columns: str) -> Index:
    where = sql_text(condition)
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)
