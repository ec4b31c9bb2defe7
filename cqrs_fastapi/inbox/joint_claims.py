"""Many rows of the inbox by one statement, in the transaction of the effects that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, Text, Uuid, bindparam, column, exists, func, literal, select
from sqlalchemy.dialects import postgresql

from cqrs_fastapi.inbox.cases import name_of_key
from cqrs_fastapi.inbox.claims import DONE, AlreadySettledError, claim
from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.dialects import is_postgres
from cqrs_fastapi.storage.tables import Tables


def claim_all(
    connection: Connection, tables: Tables, consumer: str, claims: Sequence[tuple[UUID, bytes | None]], *, now: datetime
) -> None:
    """The messages and the keys that order them, None for one that nothing orders. All of them, or AlreadySettledError,
    also for one whose key is closed: then the transaction must leave nothing. In the order of the ids, so that two that
    claim the same wait for each other and not crosswise.
    """
    named = sorted((message_id, name_of_key(key)) for message_id, key in claims)
    if not is_postgres(connection):
        for message_id, key in named:
            claim(connection, tables, consumer, message_id, status=DONE, now=now, key=key)
        return
    given = {"consumer": consumer, "ids": [one for one, _ in named], "keys": [key for _, key in named], "now": now}
    claimed = len(connection.execute(_claiming(tables), given).all())
    if claimed < len(named):
        raise AlreadySettledError(
            f"{consumer} has settled {len(named) - claimed} of {len(named)} messages before, or their keys are closed"
        )


@lru_cache(maxsize=16)
def _claiming(tables: Tables) -> postgresql.Insert:
    inbox, blocked = tables.inbox, tables.blocked_keys
    consumer = bindparam("consumer", type_=inbox.c.consumer.type)
    given = (
        func.unnest(bindparam("ids", type_=postgresql.ARRAY(Uuid())), bindparam("keys", type_=postgresql.ARRAY(Text())))
        .table_valued(column("message_id", Uuid()), column("key", Text()), name="given")
        .render_derived()
    )
    closed = exists().where(blocked.c.owner == consumer, blocked.c.key == given.c.key)
    rows = select(consumer, given.c.message_id, literal(DONE), bindparam("now", type_=UtcDateTime())).where(~closed)
    columns = ["consumer", "message_id", "status", "received_at"]
    statement = postgresql.insert(inbox).from_select(columns, rows)
    return statement.on_conflict_do_nothing().returning(inbox.c.message_id)  # type: ignore[return-value]  # still an Insert
