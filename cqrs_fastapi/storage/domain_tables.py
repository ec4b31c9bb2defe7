"""The tables of the domain model: snapshots, the current states of root entities, the keys of data subjects."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text, Uuid

from cqrs_fastapi.storage.column_types import Document, JsonText, UtcDateTime
from cqrs_fastapi.storage.columns import moment, tenant, text
from cqrs_fastapi.storage.names import Names


def snapshots_table(metadata: MetaData, names: Names) -> Table:
    """A cache: one that does not fit the code, or whose event is gone, is ignored. `subjects` are those whose keys its
    state is encrypted by.
    """
    return Table(
        names.of("snapshots"),
        metadata,
        tenant(),
        text("stream"),
        Column("version", BigInteger, nullable=False),
        Column("message_id", Uuid, nullable=False),
        text("fingerprint"),
        Column("state", LargeBinary, nullable=False),
        Column("subjects", JsonText, nullable=False, server_default="[]"),
        moment("taken_at"),
        PrimaryKeyConstraint("tenant", "stream", name=names.of("snapshots_pk")),
        schema=names.schema,
    )


def root_states_table(metadata: MetaData, names: Names) -> Table:
    """Written in the transaction that records the change. A deleted one keeps its row, without its state."""
    return Table(
        names.of("root_states"),
        metadata,
        tenant(),
        text("category"),
        Column("id", Uuid, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("state", Document, nullable=False),
        moment("created_at"),
        moment("updated_at"),
        Column("deleted_at", UtcDateTime),
        PrimaryKeyConstraint("tenant", "category", "id", name=names.of("root_states_pk")),
        schema=names.schema,
    )


def subject_keys_table(metadata: MetaData, names: Names) -> Table:
    """One key for each data subject. Without `wrapped_key` it is forgotten; the row keeps it from being made anew."""
    return Table(
        names.of("subject_keys"),
        metadata,
        tenant(),
        text("subject"),
        Column("key_id", Uuid, nullable=False),
        Column("wrapped_key", LargeBinary),
        Column("wrapped_by", Text),
        moment("created_at"),
        Column("forgotten_at", UtcDateTime),
        PrimaryKeyConstraint("tenant", "subject", name=names.of("subject_keys_pk")),
        Index(names.of("subject_keys_key_id_ix"), "key_id", unique=True),
        schema=names.schema,
    )
