"""Snapshots, the current states of root entities, the keys of data subjects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import Document, JsonText, UtcDateTime
from cqrs_fastapi.storage.names import Names

revision = "0003"
down_revision = "0002"

_NO_SAMPLES = "ALTER TABLE {schema}{prefix}subject_keys ALTER COLUMN wrapped_key SET STATISTICS 0"
"""ANALYZE copies values into the catalogue, where a key would outlive its row."""


def upgrade(op: Operations, names: Names) -> None:
    _snapshots(op, names)
    _root_states(op, names)
    _subject_keys(op, names)


def downgrade(op: Operations, names: Names) -> None:
    for table in ("subject_keys", "root_states", "snapshots"):
        op.drop_table(names.of(table), schema=names.schema)


def _snapshots(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("snapshots"),
        sa.Column("tenant", sa.Text, nullable=False, server_default=""),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.Uuid, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("subjects", JsonText, nullable=False, server_default="[]"),
        sa.Column("taken_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "stream", name=names.of("snapshots_pk")),
        schema=names.schema,
    )


def _root_states(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("root_states"),
        sa.Column("tenant", sa.Text, nullable=False, server_default=""),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("state", Document, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("deleted_at", UtcDateTime),
        sa.PrimaryKeyConstraint("tenant", "category", "id", name=names.of("root_states_pk")),
        schema=names.schema,
    )


def _subject_keys(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("subject_keys"),
        sa.Column("tenant", sa.Text, nullable=False, server_default=""),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("key_id", sa.Uuid, nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary),
        sa.Column("wrapped_by", sa.Text),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("forgotten_at", UtcDateTime),
        sa.PrimaryKeyConstraint("tenant", "subject", name=names.of("subject_keys_pk")),
        schema=names.schema,
    )
    op.create_index(
        names.of("subject_keys_key_id_ix"), names.of("subject_keys"), ["key_id"], unique=True, schema=names.schema
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute(sa.text(names.written(_NO_SAMPLES)))
