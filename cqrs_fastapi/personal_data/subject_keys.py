"""The table of subjects' keys. Each function is a part of a transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Select, select, update

from cqrs_fastapi.errors import ConcurrencyError
from cqrs_fastapi.personal_data.key_provider import Wrapped
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

AT_ONCE = 200
"""Keys that one statement asks for."""


class KeyRow(NamedTuple):
    """A row of the table. Without `wrapped_key` its subject is forgotten."""

    tenant: str
    subject: str
    key_id: UUID
    wrapped_key: bytes | None
    wrapped_by: str | None
    forgotten_at: datetime | None

    @property
    def wrapped(self) -> Wrapped | None:
        return None if self.wrapped_key is None else Wrapped(self.wrapped_by or "", self.wrapped_key)

    @property
    def context(self) -> bytes:
        """What the wrapped key is bound to."""
        return context_of(self.key_id)


class ForgottenMeanwhileError(ConcurrencyError):
    """A data subject was forgotten while its data was being worked with. Nothing was written; decide again."""

    code = "forgotten_meanwhile"

    def __init__(self, key_ids: Collection[UUID], *, retryable: bool = True) -> None:
        self.key_ids = frozenset(key_ids)
        super().__init__(stream="cqrs:subject_keys", expected="present", actual=0, retryable=retryable)
        self.args = ("a data subject was forgotten while its data was being worked with; nothing was written",)


def context_of(key_id: UUID) -> bytes:
    """What a key is wrapped under: who moves it to another row gets nothing."""
    return b"cqrs:subject-key:" + key_id.bytes


def of_subjects(connection: Connection, tables: Tables, tenant: str, subjects: Sequence[str]) -> list[KeyRow]:
    """The rows of these subjects, if they have any; at most AT_ONCE."""
    keys = tables.subject_keys.c
    query = _rows(tables).where(keys.tenant == tenant, keys.subject.in_(subjects))
    return [KeyRow(*row) for row in connection.execute(query)]


def of_ids(connection: Connection, tables: Tables, key_ids: Sequence[UUID]) -> list[KeyRow]:
    """The rows with these ids, if there are any; at most AT_ONCE."""
    query = _rows(tables).where(tables.subject_keys.c.key_id.in_(key_ids))
    return [KeyRow(*row) for row in connection.execute(query)]


def make(
    connection: Connection, tables: Tables, tenant: str, new: Mapping[str, tuple[UUID, Wrapped]], now: datetime
) -> list[KeyRow]:
    """The rows of these subjects; a subject that has none gets the new key. Of several makers at once one does it, and
    the others wait for it and are given what it made.
    """
    rows = [
        {
            "tenant": tenant,
            "subject": subject,
            "key_id": key_id,
            "wrapped_key": wrapped.data,
            "wrapped_by": wrapped.name,
            "created_at": now,
        }
        for subject, (key_id, wrapped) in sorted(new.items())
    ]
    connection.execute(upsert(connection, tables.subject_keys).on_conflict_do_nothing(), rows)
    return of_subjects(connection, tables, tenant, sorted(new))


def hold(connection: Connection, tables: Tables, key_ids: Collection[UUID], *, retryable: bool = True) -> None:
    """Let none of these subjects be forgotten before this transaction has ended; ForgottenMeanwhileError if one was.

    A subject that is being forgotten at this moment counts as forgotten, instead of being waited for: who forgets waits
    for the rows that the present transaction has written.
    """
    keys = tables.subject_keys.c
    for part in parts_of(sorted(key_ids)):
        query = select(keys.key_id).where(keys.key_id.in_(part), keys.wrapped_key.is_not(None))
        kept = set(connection.execute(query.with_for_update(read=True, skip_locked=True)).scalars())
        if len(kept) < len(part):
            raise ForgottenMeanwhileError(set(part) - kept, retryable=retryable)


def destroy(connection: Connection, tables: Tables, tenant: str, subject: str, row: Mapping[str, Any]) -> KeyRow:
    """Take the subject's key away and never give it another one. `row` has the `key_id` of a subject that is unknown so
    far, and the time. The row is locked until the transaction ends; before, it has waited for those who `hold` it.
    """
    keys, now = tables.subject_keys, row["forgotten_at"]
    unknown = {"tenant": tenant, "subject": subject, "created_at": now, **row}
    connection.execute(upsert(connection, keys).on_conflict_do_nothing(), unknown)
    connection.execute(
        update(keys)
        .where(keys.c.tenant == tenant, keys.c.subject == subject, keys.c.forgotten_at.is_(None))
        .values(wrapped_key=None, wrapped_by=None, forgotten_at=now)
    )
    (found,) = of_subjects(connection, tables, tenant, [subject])
    return found


def parts_of(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    """As many as one statement asks for."""
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]


def _rows(tables: Tables) -> Select[Any]:
    keys = tables.subject_keys.c
    columns: list[Any] = [keys.tenant, keys.subject, keys.key_id, keys.wrapped_key, keys.wrapped_by, keys.forgotten_at]
    query: Select[Any] = select(*columns)  # pyright: ignore[reportAssignmentType]  # a list says nothing of its length
    return query
