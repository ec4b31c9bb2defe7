"""That a command has been answered before: looked up, or found out while a second attempt was about to commit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, select

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.eventstore.records import IdempotencyRecord
from cqrs_fastapi.mediation.idempotency import Attempt, Recorded
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import Tables


class RepeatedError(CqrsError):
    """Another attempt with the same idempotency key has committed; nothing of this one was written."""

    code = "repeated"

    def __init__(self, record: IdempotencyRecord) -> None:
        self.record = record
        super().__init__(f"{record.command} with the idempotency key {record.key!r} has been answered already")


@dataclass(frozen=True, slots=True)
class StoredRecords:
    """The records of commands with an idempotency key."""

    database: Database

    async def find(self, attempt: Attempt, /) -> Recorded | None:
        return await self.database.read_few(partial(_find, tables=self.database.tables, attempt=attempt))


def record_of(attempt: Attempt, response: str) -> IdempotencyRecord:
    return IdempotencyRecord(attempt.user, attempt.key, attempt.command, attempt.ordinal, attempt.fingerprint, response)


def _find(connection: Connection, *, tables: Tables, attempt: Attempt) -> Recorded | None:
    records = tables.idempotency
    row = connection.execute(
        select(records.c.fingerprint, records.c.response).where(
            records.c.tenant == attempt.tenant,
            records.c.user_id == attempt.user,
            records.c.key == attempt.key,
            records.c.command == attempt.command,
            records.c.ordinal == attempt.ordinal,
        )
    ).one_or_none()
    return None if row is None else Recorded(row.fingerprint, row.response)
