"""The inbox: which handler has settled which message, written in the transaction of the handler's effect."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

DONE = "done"
PARKED = "parked"


class AlreadySettledError(CqrsError):
    """The handler has settled the message before; the present transaction must leave nothing."""

    code = "already_settled"


def claim(
    connection: Connection, tables: Tables, consumer: str, message_id: UUID, *, status: str, now: datetime
) -> None:
    """Insert the row. Of several transactions with one (consumer, message) one commits; the others wait for it and
    get AlreadySettledError.
    """
    statement = upsert(connection, tables.inbox).on_conflict_do_nothing().returning(tables.inbox.c.consumer)
    row = {"consumer": consumer, "message_id": message_id, "status": status, "received_at": now}
    if connection.execute(statement, row).scalar() is None:
        raise AlreadySettledError(f"{consumer} has settled message {message_id} before")


def settled(connection: Connection, tables: Tables, message_ids: Sequence[UUID]) -> set[tuple[str, UUID]]:
    """Which (consumer, message) pairs are settled already: spares the work that a claim would undo."""
    inbox = tables.inbox
    query = select(inbox.c.consumer, inbox.c.message_id).where(inbox.c.message_id.in_(message_ids))
    return {(row.consumer, row.message_id) for row in connection.execute(query)}
