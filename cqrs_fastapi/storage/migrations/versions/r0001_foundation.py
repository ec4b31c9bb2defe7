"""Streams, events, outbox, inbox, dead letters, blocked keys, checkpoints, job runs and leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import POSITION, JsonText, UtcDateTime
from cqrs_fastapi.storage.names import Names

revision = "0001"
down_revision = None

_TABLES = (
    "streams",
    "events",
    "outbox",
    "inbox",
    "dead_letters",
    "blocked_keys",
    "checkpoints",
    "job_runs",
    "leases",
)


def upgrade(op: Operations, names: Names) -> None:
    _event_store(op, names)
    _outbox(op, names)
    _consumers(op, names)
    _workers(op, names)


def downgrade(op: Operations, names: Names) -> None:
    for table in reversed(_TABLES):
        op.drop_table(names.of(table), schema=names.schema)


def _event_store(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("streams"),
        _tenant(),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("tenant", "stream", name=names.of("streams_pk")),
        schema=names.schema,
    )
    op.create_table(
        names.of("events"),
        _position(),
        sa.Column("message_id", sa.Uuid, nullable=False),
        _tenant(),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("data", JsonText, nullable=False),
        sa.Column("metadata", JsonText, nullable=False),
        sa.Column("recorded_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("position", name=names.of("events_pk")),
        sa.UniqueConstraint("message_id", name=names.of("events_message_id_key")),
        sa.UniqueConstraint("tenant", "stream", "version", name=names.of("events_stream_version_key")),
        schema=names.schema,
        sqlite_autoincrement=True,
    )
    _index(op, names, "events", "category", "position")
    _index(op, names, "events", "type", "position")


def _outbox(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("outbox"),
        _position(),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("aggregatetype", sa.Text, nullable=False),
        sa.Column("aggregateid", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("bucket", sa.Integer, nullable=False),
        sa.Column("headers", JsonText, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("available_at", UtcDateTime, nullable=False),
        _tenant(),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("position", name=names.of("outbox_pk")),
        sa.UniqueConstraint("id", name=names.of("outbox_id_key")),
        schema=names.schema,
        sqlite_autoincrement=True,
    )
    _index(op, names, "outbox", "bucket", "position")


def _consumers(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("inbox"),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("message_id", sa.Uuid, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("consumer", "message_id", name=names.of("inbox_pk")),
        schema=names.schema,
    )
    _index(op, names, "inbox", "received_at")
    op.create_table(
        names.of("dead_letters"),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("message_id", sa.Uuid),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("headers", JsonText, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("parked_at", UtcDateTime, nullable=False),
        _tenant(),
        sa.PrimaryKeyConstraint("id", name=names.of("dead_letters_pk")),
        schema=names.schema,
    )
    # The name must fit 63 bytes behind the longest prefix.
    index = names.of("dead_letters_parked_at_ix")
    op.create_index(index, names.of("dead_letters"), ["consumer", "parked_at"], schema=names.schema)
    op.create_table(
        names.of("blocked_keys"),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("blocked_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=names.of("blocked_keys_pk")),
        schema=names.schema,
    )


def _workers(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("checkpoints"),
        sa.Column("projection", sa.Text, nullable=False),
        sa.Column("partition", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("projection", "partition", name=names.of("checkpoints_pk")),
        schema=names.schema,
    )
    op.create_table(
        names.of("job_runs"),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("tick", UtcDateTime, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("job", "tick", name=names.of("job_runs_pk")),
        schema=names.schema,
    )
    _index(op, names, "job_runs", "started_at")
    op.create_table(
        names.of("leases"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("owner", sa.Uuid),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name=names.of("leases_pk")),
        schema=names.schema,
    )


def _index(op: Operations, names: Names, table: str, *columns: str) -> None:
    name = names.of("_".join((table, *columns, "ix")))
    op.create_index(name, names.of(table), list(columns), schema=names.schema)


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant", sa.Text, nullable=False, server_default="")


def _position() -> sa.Column[int]:
    return sa.Column("position", POSITION, sa.Identity(), nullable=False)
