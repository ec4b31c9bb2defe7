"""The framework's tables, as the head of the migrations leaves them. Queries name them by `database.tables`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
)

from cqrs_fastapi.storage.column_types import JsonText, UtcDateTime
from cqrs_fastapi.storage.columns import moment, position, tenant, text
from cqrs_fastapi.storage.domain_tables import root_states_table, snapshots_table, subject_keys_table
from cqrs_fastapi.storage.inbox_tables import (
    attempts_table,
    blocked_keys_table,
    dead_letters_table,
    dispatches_table,
    inbox_table,
)
from cqrs_fastapi.storage.names import Names
from cqrs_fastapi.storage.outbox_tables import facts_table, outbox_table, relay_members_table


@dataclass(frozen=True, slots=True)
class Tables:
    """One attribute per table. The column named `metadata` is `.c.meta`; all else is called as in the database."""

    streams: Table
    events: Table
    tags: Table
    event_tags: Table
    idempotency: Table
    outbox: Table
    inbox: Table
    dead_letters: Table
    blocked_keys: Table
    attempts: Table
    dispatches: Table
    checkpoints: Table
    job_runs: Table
    leases: Table
    snapshots: Table
    root_states: Table
    subject_keys: Table
    facts: Table
    relay_members: Table

    def all(self) -> tuple[Table, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def build_tables(metadata: MetaData, prefix: str = "cqrs_", schema: str | None = None) -> Tables:
    """Adds the tables to `metadata`, which may be the application's own."""
    names = Names(prefix, schema)
    return Tables(
        streams=_streams(metadata, names),
        events=_events(metadata, names),
        tags=_tags(metadata, names),
        event_tags=_event_tags(metadata, names),
        idempotency=_idempotency(metadata, names),
        outbox=outbox_table(metadata, names),
        inbox=inbox_table(metadata, names),
        dead_letters=dead_letters_table(metadata, names),
        blocked_keys=blocked_keys_table(metadata, names),
        attempts=attempts_table(metadata, names),
        dispatches=dispatches_table(metadata, names),
        checkpoints=_checkpoints(metadata, names),
        job_runs=_job_runs(metadata, names),
        leases=_leases(metadata, names),
        snapshots=snapshots_table(metadata, names),
        root_states=root_states_table(metadata, names),
        subject_keys=subject_keys_table(metadata, names),
        facts=facts_table(metadata, names),
        relay_members=relay_members_table(metadata, names),
    )


def _streams(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("streams"),
        metadata,
        tenant(),
        text("stream"),
        text("category"),
        Column("version", BigInteger, nullable=False),
        Column("archived", Boolean, nullable=False, server_default=false()),
        Column("truncated_before", BigInteger, nullable=False, server_default="1"),
        Column("deleted_at", UtcDateTime),
        PrimaryKeyConstraint("tenant", "stream", name=names.of("streams_pk")),
        schema=names.schema,
    )


def _events(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("events"),
        metadata,
        position(),
        Column("message_id", Uuid, nullable=False),
        tenant(),
        text("stream"),
        Column("version", BigInteger, nullable=False),
        text("category"),
        text("type"),
        Column("schema_version", Integer, nullable=False),
        Column("data", JsonText, nullable=False),
        Column("metadata", JsonText, key="meta", nullable=False),
        moment("recorded_at"),
        Column("archived", Boolean, nullable=False, server_default=false()),
        PrimaryKeyConstraint("position", name=names.of("events_pk")),
        UniqueConstraint("message_id", name=names.of("events_message_id_key")),
        UniqueConstraint("tenant", "stream", "version", name=names.of("events_stream_version_key")),
        Index(names.of("events_category_position_ix"), "category", "position"),
        Index(names.of("events_type_position_ix"), "type", "position"),
        schema=names.schema,
        sqlite_autoincrement=True,
    )


def _tags(metadata: MetaData, names: Names) -> Table:
    """Rows to lock: one for each tag that was ever given."""
    return Table(
        names.of("tags"),
        metadata,
        tenant(),
        text("tag"),
        PrimaryKeyConstraint("tenant", "tag", name=names.of("tags_pk")),
        schema=names.schema,
    )


def _event_tags(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("event_tags"),
        metadata,
        tenant(),
        text("tag"),
        Column("position", BigInteger, nullable=False),
        PrimaryKeyConstraint("tenant", "tag", "position", name=names.of("event_tags_pk")),
        Index(names.of("event_tags_position_ix"), "position"),
        schema=names.schema,
    )


def _idempotency(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("idempotency"),
        metadata,
        tenant(),
        text("user_id"),
        text("key"),
        text("command"),
        Column("ordinal", Integer, nullable=False),
        text("fingerprint"),
        Column("response", JsonText, nullable=False),
        moment("created_at"),
        PrimaryKeyConstraint("tenant", "user_id", "key", "command", "ordinal", name=names.of("idempotency_pk")),
        Index(names.of("idempotency_created_at_ix"), "created_at"),
        schema=names.schema,
    )


def _checkpoints(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("checkpoints"),
        metadata,
        text("projection"),
        text("partition"),
        Column("position", BigInteger, nullable=False),
        moment("updated_at"),
        Column("message_id", Uuid),
        Column("highest", BigInteger, nullable=False, server_default="0"),
        PrimaryKeyConstraint("projection", "partition", name=names.of("checkpoints_pk")),
        schema=names.schema,
    )


def _job_runs(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("job_runs"),
        metadata,
        text("job"),
        moment("tick"),
        text("owner"),
        text("status"),
        moment("started_at"),
        Column("finished_at", UtcDateTime),
        Column("error", Text),
        PrimaryKeyConstraint("job", "tick", name=names.of("job_runs_pk")),
        Index(names.of("job_runs_started_at_ix"), "started_at"),
        schema=names.schema,
    )


def _leases(metadata: MetaData, names: Names) -> Table:
    return Table(
        names.of("leases"),
        metadata,
        text("name"),
        Column("owner", Uuid),
        Column("epoch", BigInteger, nullable=False),
        moment("expires_at"),
        PrimaryKeyConstraint("name", name=names.of("leases_pk")),
        schema=names.schema,
    )
