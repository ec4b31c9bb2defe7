"""Writes what is to be sent into the transaction that makes it true."""

from __future__ import annotations

from typing import Any

from cqrs_fastapi.eventstore.records import Sending
from cqrs_fastapi.messages.events import EventDefinition
from cqrs_fastapi.messages.headers import render_headers
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.outbox.routing import bucket_of


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
