"""From a row of the own store to an event with its metadata, and to the message that a dead letter keeps of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.eventstore.decoding import events_in
from cqrs_fastapi.eventstore.subscription import Arrival
from cqrs_fastapi.inbox.envelope import Envelope, envelopes_of
from cqrs_fastapi.messages.headers import OURS, all_headers
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry

NO_PARTITION = -1
"""The partition of a message that came from no topic."""


def open_stored(arrival: Arrival, registry: EventRegistry) -> list[Envelope]:
    """Its events, mostly one. Raises a MessageError if its row cannot be understood."""
    return envelopes_of(events_in(arrival.stored, registry), metadata_of(arrival))


def metadata_of(arrival: Arrival) -> Metadata:
    """What was current when the event was recorded. Rows that somebody else wrote may lack all of it."""
    stored, values = arrival.stored, _stored_headers(arrival)
    time, causation = values.get("time"), values.get("causation-id")
    try:
        return Metadata(
            message_id=stored.message_id,
            correlation_id=_text(values, "correlation-id") or str(stored.message_id),
            time=datetime.fromisoformat(time) if time else stored.recorded_at,
            causation_id=UUID(causation) if causation else None,
            user=_text(values, "user"),
            tenant=arrival.tenant or None,
            traceparent=_text(values, "traceparent"),
            headers={name: str(value) for name, value in values.items() if name not in OURS},
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedMessageError(f"the metadata of event {stored.message_id} is wrong: {error}") from None


def message_of(arrival: Arrival) -> IncomingMessage:
    """The event as a message: its topic is the stream and its offset the position; it has the headers of a sent one."""
    stored = arrival.stored
    return IncomingMessage(
        topic=stored.stream,
        partition=NO_PARTITION,
        offset=stored.position,
        key=stored.stream.encode(),
        payload=stored.data.encode(),
        headers={name: value.encode() for name, value in _headers(arrival).items()},
        sent_at=stored.recorded_at,
    )


def _headers(arrival: Arrival) -> dict[str, str]:
    stored = arrival.stored
    try:
        values = _stored_headers(arrival)
    except MalformedMessageError:
        values = {}  # enough to find it and to read it: what cannot be read stays in its row
    known = {name: value for name, value in values.items() if isinstance(value, str)}
    return all_headers(stored.message_id, stored.type, arrival.tenant, {"version": str(stored.schema_version), **known})


def _stored_headers(arrival: Arrival) -> dict[str, Any]:
    values = parse_json(arrival.stored.metadata)
    if not isinstance(values, dict):
        raise MalformedMessageError(f"the metadata of event {arrival.stored.message_id} is no JSON object")
    return values


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value
