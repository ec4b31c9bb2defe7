"""Many rows of the inbox by one statement, in the transaction of the effects that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, func, literal, select
from sqlalchemy.dialects import postgresql

from cqrs_fastapi.inbox.claims import DONE, AlreadySettledError, claim
from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.dialects import is_postgres
from cqrs_fastapi.storage.tables import Tables


def claim_all(
    connection: Connection, tables: Tables, consumer: str, message_ids: Sequence[UUID], *, now: datetime
) -> None:
    """All of them or AlreadySettledError: then the transaction must leave nothing. In the order of the ids, so that two
    that claim the same wait for each other and not crosswise.
    """
    ids = sorted(message_ids)
    if not is_postgres(connection):
        for message_id in ids:
            claim(connection, tables, consumer, message_id, status=DONE, now=now)
        return
    given = {"consumer": consumer, "ids": ids, "now": now}
    claimed = len(connection.execute(_claiming(tables), given).all())
    if claimed < len(ids):
        raise AlreadySettledError(f"{consumer} has settled {len(ids) - claimed} of {len(ids)} messages before")


@lru_cache(maxsize=16)
def _claiming(tables: Tables) -> postgresql.Insert:
    inbox = tables.inbox
    rows = select(
        bindparam("consumer", type_=inbox.c.consumer.type),
        func.unnest(bindparam("ids", type_=postgresql.ARRAY(Uuid()))),
        literal(DONE),
        bindparam("now", type_=UtcDateTime()),
    )
    columns = ["consumer", "message_id", "status", "received_at"]
    statement = postgresql.insert(inbox).from_select(columns, rows)
    return statement.on_conflict_do_nothing().returning(inbox.c.message_id)  # type: ignore[return-value]  # still an Insert
