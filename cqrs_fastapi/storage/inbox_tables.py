"""The tables of what was received: the inbox, what was given up, and the keys that wait behind it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Uuid,
)

from cqrs_fastapi.storage.column_types import JsonText
from cqrs_fastapi.storage.columns import moment, tenant, text
from cqrs_fastapi.storage.names import Names


def inbox_table(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("inbox"),
        metadata,
        text("consumer"),
        Column("message_id", Uuid, nullable=False),
        text("status"),
        moment("received_at"),
        Column("reply", JsonText),
        PrimaryKeyConstraint("consumer", "message_id", name=names.of("inbox_pk")),
        Index(names.of("inbox_received_at_ix"), "received_at"),
        schema=names.schema,
    )


def dead_letters_table(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("dead_letters"),
        metadata,
        Column("id", Uuid, nullable=False),
        text("consumer"),
        Column("message_id", Uuid),
        text("topic"),
        Column("partition", Integer, nullable=False),
        Column("offset", BigInteger, nullable=False),
        Column("key", LargeBinary),
        Column("headers", JsonText, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        text("code"),
        text("error"),
        text("traceback"),
        Column("attempts", Integer, nullable=False, server_default="0"),
        moment("parked_at"),
        tenant(),
        PrimaryKeyConstraint("id", name=names.of("dead_letters_pk")),
        Index(names.of("dead_letters_parked_at_ix"), "consumer", "parked_at"),
        schema=names.schema,
    )


def blocked_keys_table(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("blocked_keys"),
        metadata,
        text("owner"),
        text("key"),
        text("reason"),
        moment("blocked_at"),
        PrimaryKeyConstraint("owner", "key", name=names.of("blocked_keys_pk")),
        schema=names.schema,
    )
