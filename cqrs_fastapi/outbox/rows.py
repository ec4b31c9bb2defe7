"""Writes what is to be sent into the transaction that makes it true, and reads it back for the relay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, select, update

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.eventstore.records import Sending
from cqrs_fastapi.messages.headers import all_headers
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.outbox.outgoing import DELAYED
from cqrs_fastapi.outbox.routing import bucket_of
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.tables import Tables

POSITION_HEADER = "outbox-position"


@dataclass(frozen=True, slots=True)
class Pending:
    """A message of the outbox, at its position."""

    position: int
    message: OutgoingMessage
    tenant: str


def sending_of(metadata: Metadata, stream: str, topic: str) -> Sending:
    """How an event of a stream is sent. Its key is its stream, so that a stream's events stay in order."""
    return Sending(topic, bucket_of(stream), metadata.time)


def next_batch(connection: Connection, tables: Tables, limit: int) -> list[Pending]:
    """The oldest rows. Inside one key their order is the order of commit, whoever wrote them."""
    outbox = tables.outbox
    query = (
        select(
            outbox.c.position,
            outbox.c.id,
            outbox.c.type,
            outbox.c.topic,
            outbox.c.key,
            outbox.c.payload,
            outbox.c.headers,
            outbox.c.tenant,
        )
        .where(outbox.c.bucket >= 0)
        .order_by(outbox.c.position)
        .limit(limit)
    )
    return [_pending(row) for row in connection.execute(query)]


def come_back(connection: Connection, tables: Tables) -> int:
    """Let what was delayed and is due by the database's clock be found by `next_batch`; how many."""
    outbox = tables.outbox
    due = (outbox.c.bucket <= DELAYED) & (outbox.c.available_at <= database_now(connection))
    return connection.execute(update(outbox).where(due).values(bucket=DELAYED - outbox.c.bucket)).rowcount


def remove(connection: Connection, tables: Tables, positions: Sequence[int]) -> None:
    """Delete acknowledged rows, by list: never by range, which could take one that was not sent."""
    connection.execute(delete(tables.outbox).where(tables.outbox.c.position.in_(positions)))


def backlog(connection: Connection, tables: Tables) -> tuple[int, datetime | None]:
    """How many rows wait, and since when the oldest does."""
    row = connection.execute(
        select(func.count(), func.min(tables.outbox.c.created_at)).select_from(tables.outbox)
    ).one()
    return row[0], row[1]


def _pending(row: Row[Any, Any, Any, Any, Any, Any, Any, Any]) -> Pending:
    identifier: UUID = row.id
    headers = all_headers(identifier, row.type, row.tenant, parse_json(row.headers))
    headers[POSITION_HEADER] = str(row.position)
    message = OutgoingMessage(identifier, row.topic, row.key, row.payload, headers)
    return Pending(row.position, message, row.tenant)
