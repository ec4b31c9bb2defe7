"""The tables of what was received: the inbox, what was given up, the keys that wait behind it, and the messages
that were taken up.
"""

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
    Text,
    Uuid,
)

from cqrs_fastapi.storage.column_types import JsonText, UtcDateTime
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
        Column("sequence", Text),
        Column("ordinal", BigInteger, nullable=False, server_default="0"),
        Column("retry_at", UtcDateTime),
        Column("dispatched_at", UtcDateTime),
        Column("sent_at", UtcDateTime),
        PrimaryKeyConstraint("id", name=names.of("dead_letters_pk")),
        Index(names.of("dead_letters_parked_at_ix"), "consumer", "parked_at"),
        Index(names.of("dead_letters_sequence_ix"), "consumer", "sequence", "ordinal"),
        Index(names.of("dead_letters_retry_at_ix"), "retry_at"),
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
        Column("last_ordinal", BigInteger, nullable=False, server_default="0"),
        PrimaryKeyConstraint("owner", "key", name=names.of("blocked_keys_pk")),
        schema=names.schema,
    )


def attempts_table(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("attempts"),
        metadata,
        text("consumer"),
        Column("message_id", Uuid, nullable=False),
        Column("count", Integer, nullable=False),
        moment("counted_at"),
        PrimaryKeyConstraint("consumer", "message_id", name=names.of("attempts_pk")),
        schema=names.schema,
    )


def dispatches_table(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("dispatches"),
        metadata,
        text("consumer"),
        text("topic"),
        Column("partition", Integer, nullable=False),
        Column("through", BigInteger, nullable=False),
        moment("dispatched_at"),
        PrimaryKeyConstraint("consumer", "topic", "partition", name=names.of("dispatches_pk")),
        schema=names.schema,
    )
