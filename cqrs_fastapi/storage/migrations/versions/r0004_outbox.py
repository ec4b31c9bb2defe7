"""What the relays and the outbox need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.migrations.relay_functions import DROP, STATEMENTS
from cqrs_fastapi.storage.names import Names

revision = "0004"
down_revision = "0003"


def upgrade(op: Operations, names: Names) -> None:
    _relays(op, names)


def downgrade(op: Operations, names: Names) -> None:
    _no_relays(op, names)


def _relays(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("facts"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name=names.of("facts_pk")),
        schema=names.schema,
    )
    op.create_table(
        names.of("relay_members"),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("member", sa.Uuid, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("service", "member", name=names.of("relay_members_pk")),
        schema=names.schema,
    )
    _index(op, names, "held", ("topic", "key", "position"), "bucket BETWEEN -1000 AND -1")
    _index(op, names, "delayed", ("bucket", "available_at"), "bucket < -1000")
    if op.get_context().dialect.name == "postgresql":
        for statement in STATEMENTS:
            op.execute(sa.text(names.written(statement)))


def _no_relays(op: Operations, names: Names) -> None:
    if op.get_context().dialect.name == "postgresql":
        for statement in DROP:
            op.execute(sa.text(names.written(statement)))
    for index in ("held", "delayed"):
        op.drop_index(names.of(f"outbox_{index}_ix"), names.of("outbox"), schema=names.schema)
    for table in ("relay_members", "facts"):
        op.drop_table(names.of(table), schema=names.schema)


def _index(op: Operations, names: Names, name: str, columns: tuple[str, ...], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(
        names.of(f"outbox_{name}_ix"),
        names.of("outbox"),
        list(columns),
        schema=names.schema,
        postgresql_where=where,
        sqlite_where=where,
    )
