"""The inbox: which handler has settled which message, written in the transaction of the handler's effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, bindparam, select

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.storage.dialects import upsert_of
from cqrs_fastapi.storage.prepared import Prepared, prepared
from cqrs_fastapi.storage.tables import Tables

DONE = "done"
PARKED = "parked"


class AlreadySettledError(CqrsError):
    """The handler has settled the message before; the present transaction must leave nothing."""

    code = "already_settled"


def claim(
    connection: Connection,
    tables: Tables,
    consumer: str,
    message_id: UUID,
    *,
    status: str,
    now: datetime,
    reply: str | None = None,
) -> None:
    """Insert the row, of a command with its reply. Of several transactions with one (consumer, message) one commits;
    the others wait for it and get AlreadySettledError.
    """
    row = {"consumer": consumer, "message_id": message_id, "status": status, "received_at": now, "reply": reply}
    if _claiming(tables, connection.dialect.name).scalar(connection, row) is None:
        raise AlreadySettledError(f"{consumer} has settled message {message_id} before")


@lru_cache(maxsize=16)
def _claiming(tables: Tables, dialect: str) -> Prepared:
    inbox = tables.inbox
    statement = upsert_of(dialect, inbox).values({column: bindparam(column.key) for column in inbox.c})
    return prepared(statement.on_conflict_do_nothing().returning(inbox.c.consumer))


def settled(
    connection: Connection, tables: Tables, consumers: Iterable[str], message_ids: Sequence[UUID]
) -> set[tuple[str, UUID]]:
    """Which (consumer, message) pairs are settled already: spares the work that a claim would undo."""
    inbox = tables.inbox
    query = select(inbox.c.consumer, inbox.c.message_id).where(
        inbox.c.consumer.in_(sorted(consumers)), inbox.c.message_id.in_(message_ids)
    )
    return {(row.consumer, row.message_id) for row in connection.execute(query)}


def in_store(connection: Connection, tables: Tables, message_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these messages are events of this service's own store, whose handlers read them there."""
    events = tables.events
    return set(connection.execute(select(events.c.message_id).where(events.c.message_id.in_(message_ids))).scalars())
