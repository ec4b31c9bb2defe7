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
from sqlalchemy import (
    text as sql,
)

from cqrs_fastapi.storage.column_types import JsonText
from cqrs_fastapi.storage.columns import moment, position, tenant, text
from cqrs_fastapi.storage.names import Names

_DELAYED = sql("bucket < -1000")


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
        Index(
            names.of("outbox_delayed_ix"),
            "bucket",
            "available_at",
            postgresql_where=_DELAYED,
            sqlite_where=_DELAYED,
        ),
        schema=names.schema,
        sqlite_autoincrement=True,
    )
