"""The inbox: which handler has settled which message, written in the transaction of the handler's effect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, Text, bindparam, exists, null, select, union_all

from cqrs_fastapi.dead_letters.parked_keys import name_of
from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.storage.dialects import upsert, upsert_of
from cqrs_fastapi.storage.prepared import Prepared, prepared
from cqrs_fastapi.storage.tables import Tables

DONE = "done"
PARKED = "parked"
DISCARDED = "discarded"


class AlreadySettledError(CqrsError):
    """The handler has settled the message before; the present transaction must leave nothing."""

    code = "already_settled"

    def __init__(self, what: str, *, status: str = DONE) -> None:
        self.status = status
        """What its inbox row says."""
        super().__init__(what)


class KeyClosedError(CqrsError):
    """An earlier message of the key is parked; the present transaction must leave nothing, and its message parks."""

    code = "key_closed"


def claim(
    connection: Connection,
    tables: Tables,
    consumer: str,
    message_id: UUID,
    *,
    status: str,
    now: datetime,
    key: str | None = None,
    reply: str | None = None,
) -> None:
    """Insert the row, of a command with its reply. Of several transactions with one (consumer, message) one commits;
    the others wait for it and get AlreadySettledError. With the name of a `key`, KeyClosedError if it is closed for
    the handler: the same statement asks.
    """
    row = {"consumer": consumer, "message_id": message_id, "status": status, "received_at": now, "reply": reply}
    if key is not None:
        taken = _claiming_open(tables, connection.dialect.name).scalar(connection, {**row, "closed": key})
    else:
        taken = _claiming(tables, connection.dialect.name).scalar(connection, row)
    if taken is not None:
        return
    found = status_of(connection, tables, consumer, message_id)
    if found is None:
        raise KeyClosedError(f"{key!r} is closed for {consumer}, since a message of it is parked")
    raise AlreadySettledError(f"{consumer} has settled message {message_id} before", status=found)


def status_of(connection: Connection, tables: Tables, consumer: str, message_id: UUID) -> str | None:
    """What the inbox row says; None if there is none."""
    inbox = tables.inbox
    query = select(inbox.c.status).where(inbox.c.consumer == consumer, inbox.c.message_id == message_id)
    found: str | None = connection.execute(query).scalar_one_or_none()
    return found


def turn_parked(
    connection: Connection, tables: Tables, consumer: str, message_id: UUID, *, status: str, now: datetime
) -> bool:
    """Settle what was parked. False if it is settled otherwise, and stays so. Without a row one is written."""
    inbox = tables.inbox
    row = {"consumer": consumer, "message_id": message_id, "status": status, "received_at": now}
    statement = (
        upsert(connection, inbox)
        .values(row)
        .on_conflict_do_update(
            index_elements=[inbox.c.consumer, inbox.c.message_id],
            set_={"status": status, "received_at": now},
            where=inbox.c.status == PARKED,
        )
    )
    return connection.execute(statement.returning(inbox.c.status)).scalar_one_or_none() is not None


def claim_parked(connection: Connection, tables: Tables, consumer: str, message_id: UUID, *, now: datetime) -> None:
    """As `claim`, for the effect of a message that was parked: AlreadySettledError if it had one meanwhile."""
    if not turn_parked(connection, tables, consumer, message_id, status=DONE, now=now):
        raise AlreadySettledError(f"{consumer} has settled message {message_id} otherwise")


@lru_cache(maxsize=16)
def _claiming(tables: Tables, dialect: str) -> Prepared:
    inbox = tables.inbox
    statement = upsert_of(dialect, inbox).values({column: bindparam(column.key) for column in inbox.c})
    return prepared(statement.on_conflict_do_nothing().returning(inbox.c.consumer))


@lru_cache(maxsize=16)
def _claiming_open(tables: Tables, dialect: str) -> Prepared:
    inbox, blocked = tables.inbox, tables.blocked_keys
    closed = exists().where(blocked.c.owner == bindparam("consumer", type_=Text), blocked.c.key == bindparam("closed"))
    values = select(*(bindparam(column.key, type_=column.type) for column in inbox.c)).where(~closed)
    statement = upsert_of(dialect, inbox).from_select([column.key for column in inbox.c], values)
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


def settled_and_closed(
    connection: Connection, tables: Tables, consumer: str, message_ids: Sequence[UUID], keys: Collection[bytes]
) -> tuple[set[UUID], set[bytes]]:
    """Which of these messages the handler has settled, and which of these keys are closed for it, by one statement."""
    inbox, blocked, names = tables.inbox, tables.blocked_keys, {name_of(key): key for key in keys}
    handled = select(inbox.c.message_id, null().cast(Text).label("key")).where(
        inbox.c.consumer == consumer, inbox.c.message_id.in_(message_ids)
    )
    closed = select(null().cast(inbox.c.message_id.type), blocked.c.key).where(
        blocked.c.owner == consumer, blocked.c.key.in_(sorted(names))
    )
    rows = connection.execute(union_all(handled, closed)).all()
    return {row[0] for row in rows if row[1] is None}, {names[row[1]] for row in rows if row[1] is not None}


def in_store(connection: Connection, tables: Tables, message_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these messages are events of this service's own store, whose handlers read them there."""
    events = tables.events
    return set(connection.execute(select(events.c.message_id).where(events.c.message_id.in_(message_ids))).scalars())
