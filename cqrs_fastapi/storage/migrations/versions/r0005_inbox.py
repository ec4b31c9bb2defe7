"""What consumers and dead letters need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.names import Names

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations, names: Names) -> None:
    _dispatches(op, names)


def downgrade(op: Operations, names: Names) -> None:
    op.drop_table(names.of("dispatches"), schema=names.schema)


def _dispatches(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("dispatches"),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("dispatched_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("consumer", "topic", "partition", name=names.of("dispatches_pk")),
        schema=names.schema,
    )
