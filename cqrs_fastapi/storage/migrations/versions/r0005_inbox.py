"""What consumers and dead letters need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.names import Names

revision = "0005"
down_revision = "0004"

_LETTERS = ("sequence", "ordinal", "retry_at", "dispatched_at", "sent_at")


def upgrade(op: Operations, names: Names) -> None:
    _sequences(op, names)
    _attempts(op, names)
    _dispatches(op, names)


def downgrade(op: Operations, names: Names) -> None:
    op.drop_table(names.of("dispatches"), schema=names.schema)
    op.drop_table(names.of("attempts"), schema=names.schema)
    _drop_sequences(op, names)


def _sequences(op: Operations, names: Names) -> None:
    letters, schema = names.of("dead_letters"), names.schema
    op.add_column(letters, sa.Column("sequence", sa.Text), schema=schema)
    op.add_column(letters, sa.Column("ordinal", sa.BigInteger, nullable=False, server_default="0"), schema=schema)
    for moment in ("retry_at", "dispatched_at", "sent_at"):
        op.add_column(letters, sa.Column(moment, UtcDateTime), schema=schema)
    columns = ["consumer", "sequence", "ordinal"]
    op.create_index(names.of("dead_letters_sequence_ix"), letters, columns, schema=schema)
    op.create_index(names.of("dead_letters_retry_at_ix"), letters, ["retry_at"], schema=schema)
    last = sa.Column("last_ordinal", sa.BigInteger, nullable=False, server_default="0")
    op.add_column(names.of("blocked_keys"), last, schema=schema)


def _drop_sequences(op: Operations, names: Names) -> None:
    for index in ("dead_letters_retry_at_ix", "dead_letters_sequence_ix"):
        op.drop_index(names.of(index), names.of("dead_letters"), schema=names.schema)
    for column in _LETTERS:
        op.drop_column(names.of("dead_letters"), column, schema=names.schema)
    op.drop_column(names.of("blocked_keys"), "last_ordinal", schema=names.schema)


def _attempts(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("attempts"),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("message_id", sa.Uuid, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("counted_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("consumer", "message_id", name=names.of("attempts_pk")),
        schema=names.schema,
    )


def _dispatches(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("dispatches"),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("through", sa.BigInteger, nullable=False),
        sa.Column("dispatched_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("consumer", "topic", "partition", name=names.of("dispatches_pk")),
        schema=names.schema,
    )
