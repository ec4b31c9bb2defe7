"""Writes what is to be sent into the transaction that makes it true, and reads it back for the relay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, select

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.eventstore.records import Sending
from cqrs_fastapi.messages.envelopes.chosen import POSITION_HEADER, Envelopes
from cqrs_fastapi.messages.envelopes.envelope import Outbound
from cqrs_fastapi.messages.events import EventDefinition
from cqrs_fastapi.messages.headers import render_headers
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.outbox.routing import bucket_of
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Pending:
    """A message of the outbox, at its position."""

    position: int
    message: OutgoingMessage
    tenant: str


def sending_of(metadata: Metadata, stream: str, topic: str) -> Sending:
    """How an event of a stream is sent. Its key is its stream, so that a stream's events stay in order."""
    return Sending(topic, bucket_of(stream), metadata.time)


def row_of(
    definition: EventDefinition, metadata: Metadata, category: str, topic: str, payload: bytes
) -> dict[str, Any]:
    """The row of an event that belongs to no stream. It has no key, and no order."""
    return {
        "id": metadata.message_id,
        "aggregatetype": category,
        "aggregateid": "",
        "type": definition.name,
        "topic": topic,
        "key": None,
        "bucket": bucket_of(str(metadata.message_id)),
        "headers": render_headers(metadata, definition.version),
        "payload": payload,
        "attempts": 0,
        "available_at": metadata.time,
        "tenant": metadata.tenant or "",
        "created_at": metadata.time,
    }


def next_batch(connection: Connection, tables: Tables, envelopes: Envelopes, limit: int) -> list[Pending]:
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
        .order_by(outbox.c.position)
        .limit(limit)
    )
    return [_pending(row, envelopes) for row in connection.execute(query)]


def remove(connection: Connection, tables: Tables, positions: Sequence[int]) -> None:
    """Delete acknowledged rows, by list: never by range, which could take one that was not sent."""
    connection.execute(delete(tables.outbox).where(tables.outbox.c.position.in_(positions)))


def backlog(connection: Connection, tables: Tables) -> tuple[int, datetime | None]:
    """How many rows wait, and since when the oldest does."""
    row = connection.execute(
        select(func.count(), func.min(tables.outbox.c.created_at)).select_from(tables.outbox)
    ).one()
    return row[0], row[1]


def _pending(row: Row[Any, Any, Any, Any, Any, Any, Any, Any], envelopes: Envelopes) -> Pending:
    identifier: UUID = row.id
    stored = Outbound(identifier, row.type, row.topic, row.key, row.payload, parse_json(row.headers), row.tenant)
    sealed = envelopes.build(stored)
    headers = {**sealed.headers, POSITION_HEADER: str(row.position)}
    return Pending(row.position, OutgoingMessage(identifier, row.topic, row.key, sealed.payload, headers), row.tenant)
