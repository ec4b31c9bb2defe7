"""Appending in one call; tags, idempotency records, streams that are closed or cut, checkpoints that verify."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import JsonText, UtcDateTime
from cqrs_fastapi.storage.migrations.append_function import DROP_FUNCTIONS, DROP_TRIGGER, FUNCTIONS
from cqrs_fastapi.storage.names import Names

revision = "0002"
down_revision = "0001"


def upgrade(op: Operations, names: Names) -> None:
    streams, events, checkpoints = names.of("streams"), names.of("events"), names.of("checkpoints")
    op.add_column(
        streams, sa.Column("truncated_before", sa.BigInteger, nullable=False, server_default="1"), schema=names.schema
    )
    op.add_column(streams, sa.Column("deleted_at", UtcDateTime), schema=names.schema)
    op.add_column(
        events, sa.Column("archived", sa.Boolean, nullable=False, server_default=sa.false()), schema=names.schema
    )
    op.add_column(checkpoints, sa.Column("message_id", sa.Uuid), schema=names.schema)
    op.add_column(
        checkpoints, sa.Column("highest", sa.BigInteger, nullable=False, server_default="0"), schema=names.schema
    )
    _tags(op, names)
    _idempotency(op, names)
    if op.get_context().dialect.name == "postgresql":
        for statement in FUNCTIONS:
            op.execute(sa.text(names.written(statement)))


def downgrade(op: Operations, names: Names) -> None:
    if op.get_context().dialect.name == "postgresql":
        for statement in (DROP_TRIGGER, *DROP_FUNCTIONS):
            op.execute(sa.text(names.written(statement)))
    for table in ("idempotency", "event_tags", "tags"):
        op.drop_table(names.of(table), schema=names.schema)
    for table, column in (
        ("checkpoints", "highest"),
        ("checkpoints", "message_id"),
        ("events", "archived"),
        ("streams", "deleted_at"),
        ("streams", "truncated_before"),
    ):
        op.drop_column(names.of(table), column, schema=names.schema)


def _tags(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("tags"),
        sa.Column("tenant", sa.Text, nullable=False, server_default=""),
        sa.Column("tag", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "tag", name=names.of("tags_pk")),
        schema=names.schema,
    )
    op.create_table(
        names.of("event_tags"),
        sa.Column("tenant", sa.Text, nullable=False, server_default=""),
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "tag", "position", name=names.of("event_tags_pk")),
        schema=names.schema,
    )
    op.create_index(names.of("event_tags_position_ix"), names.of("event_tags"), ["position"], schema=names.schema)


def _idempotency(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("idempotency"),
        sa.Column("tenant", sa.Text, nullable=False, server_default=""),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("response", JsonText, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id", "key", "command", "ordinal", name=names.of("idempotency_pk")),
        schema=names.schema,
    )
    op.create_index(names.of("idempotency_created_at_ix"), names.of("idempotency"), ["created_at"], schema=names.schema)
