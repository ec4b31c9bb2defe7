"""Forgetting a data subject: its key, what is kept of it in snapshots, its rows of read models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, Text, cast, delete

from cqrs_fastapi.personal_data.key_cache import KEPT
from cqrs_fastapi.personal_data.subject_keys import destroy
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What `forget` did. Called again it tells of the same key, and of what was still there to delete."""

    tenant: str
    subject: str
    forgotten_at: datetime
    """When the key was destroyed: nothing that it encrypted can be read since, by anybody but those named next."""
    elsewhere_until: datetime
    """Other processes may have kept the key until then, at the latest. They write nothing more that rests on it."""
    snapshots: int
    """Deleted by this call."""
    rows: Mapping[str, int]
    """Deleted by this call from read models, by the name of the table."""


class Destroyed(NamedTuple):
    """What the transaction did, to be committed yet."""

    key_id: UUID
    forgotten_at: datetime
    snapshots: int
    rows: Mapping[str, int]

    def report(self, tenant: str, subject: str, now: datetime) -> Forgotten:
        """`now`, it is committed."""
        return Forgotten(tenant, subject, self.forgotten_at, now + KEPT, self.snapshots, self.rows)


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A table with rows of data subjects."""

    table: Table
    subject: ColumnElement[Any]
    tenant: ColumnElement[str] | None = None

    def purge(self, connection: Connection, tenant: str, subject: str) -> int:
        """Delete the rows of a subject; how many they were."""
        try:
            value = self._value(subject)
        except ValueError:
            return 0  # no row of this table can be about it
        statement = delete(self.table).where(self.subject == value)
        if self.tenant is not None:
            statement = statement.where(self.tenant == tenant)
        return connection.execute(statement).rowcount

    def _value(self, subject: str) -> object:
        """The subject as the column has it: events may name it by a UUID or a number."""
        kind = self.subject.type.python_type
        return kind(subject) if kind in (UUID, int) else subject


@dataclass(slots=True)
class ReadModels:
    """The tables that are purged."""

    known: list[ReadModel] = field(default_factory=list)

    def purge(self, table: Table, *, subject: ColumnElement[Any], tenant: ColumnElement[str] | None = None) -> None:
        """Delete the rows of a forgotten subject from this table: those with it in the column `subject`, and of its
        tenant if there is a column `tenant`. TypeError for columns of another table, ValueError for a second time.
        """
        for column in (subject, tenant):
            if column is not None and getattr(column, "table", None) is not table:
                raise TypeError(
                    f"{column} is no column of {table.fullname}; write: purge(table, subject=table.c.customer_id)"
                )
        if any(one.table is table and one.subject is subject for one in self.known):
            raise ValueError(f"{table.fullname} is purged by {subject} already")
        self.known.append(ReadModel(table, subject, tenant))


def forget(
    connection: Connection,
    tables: Tables,
    read_models: Sequence[ReadModel],
    tenant: str,
    subject: str,
    *,
    key_id: UUID,
    now: datetime,
) -> Destroyed:
    """Everything of it in one transaction: a part of it is never seen.

    1. The key, whose row keeps others from going on with it. Whoever holds it has committed by now, so that its rows
       are seen; whoever comes later finds it gone, and writes nothing.
    2. Snapshots and rows.
    """
    row = destroy(connection, tables, tenant, subject, {"key_id": key_id, "forgotten_at": now})
    snapshots = tables.snapshots
    of_subject = cast(snapshots.c.subjects, Text).contains(str(row.key_id), autoescape=True)
    deleted = connection.execute(delete(snapshots).where(snapshots.c.tenant == tenant, of_subject)).rowcount
    rows: dict[str, int] = {}
    for one in read_models:
        rows[one.table.fullname] = rows.get(one.table.fullname, 0) + one.purge(connection, tenant, subject)
    return Destroyed(row.key_id, row.forgotten_at or now, deleted, rows)
