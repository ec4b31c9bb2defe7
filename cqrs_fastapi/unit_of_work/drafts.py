"""From events that were recorded to the rows that store and send them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cqrs_fastapi.errors import MessageTooLargeError
from cqrs_fastapi.eventstore.expected_version import ExpectedVersion
from cqrs_fastapi.eventstore.records import AppendUnit, Condition, IdempotencyRecord, NewEvent, StreamAppend
from cqrs_fastapi.messages.events import AnyEvent, tags_of
from cqrs_fastapi.messages.json_codec import render_json
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.outbox.rows import row_of


@dataclass(frozen=True, slots=True)
class Draft:
    """An event on its way into the store. `stream` is None for one that belongs to no aggregate."""

    event: AnyEvent
    metadata: Metadata
    stream: str | None
    category: str
    expected: ExpectedVersion


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes; what is over them is refused before anything is written."""

    event_bytes: int
    append_events: int


@dataclass(slots=True)
class Prepared:
    """Rows, ready to be written. It is falsy when there are none."""

    appends: list[StreamAppend] = field(default_factory=list)
    outbox: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.appends or self.outbox)

    def unit(
        self, tenant: str, now: datetime, record: IdempotencyRecord | None, condition: Condition | None
    ) -> AppendUnit:
        """All of it, as it is appended."""
        return AppendUnit(tenant, now, self.appends, self.outbox, record, condition)


def prepare_rows(drafts: Sequence[Draft], registry: EventRegistry, routing: Routing, limits: Limits) -> Prepared:
    """Encode every draft once. Raises MessageTooLargeError, and UnknownMessageError for an unregistered event."""
    if len(drafts) > limits.append_events:
        raise MessageTooLargeError(what="the unit of work", size=len(drafts), limit=limits.append_events, unit="events")
    prepared = Prepared()
    streams: dict[str, tuple[Draft, list[NewEvent]]] = {}
    for draft in drafts:
        registered = registry.of(draft.event)
        payload = registered.codec.encode(draft.event)
        _require_size(draft, payload, limits)
        topic = routing.topic_of(registered.event_type)
        if topic is not None:
            prepared.outbox.append(
                row_of(
                    registered=registered,
                    metadata=draft.metadata,
                    category=draft.category,
                    stream=draft.stream,
                    topic=topic,
                    payload=payload,
                )
            )
        # An event without a stream that goes nowhere either would be lost, so it gets a stream of its own.
        stream = draft.stream or (None if topic else f"{draft.category}-{draft.metadata.message_id}")
        if stream is not None:
            stored = NewEvent(
                draft.metadata.message_id,
                registered.definition.name,
                registered.definition.version,
                payload.decode(),
                render_json(_stored_metadata(draft.metadata)),
                tags_of(draft.event),
                bool(registered.definition.tags),
            )
            streams.setdefault(stream, (draft, []))[1].append(stored)
    for stream, (draft, events) in streams.items():
        prepared.appends.append(StreamAppend(stream, draft.category, draft.expected, tuple(events)))
    return prepared


def _require_size(draft: Draft, payload: bytes, limits: Limits) -> None:
    if len(payload) > limits.event_bytes:
        raise MessageTooLargeError(what=type(draft.event).__name__, size=len(payload), limit=limits.event_bytes)


def _stored_metadata(metadata: Metadata) -> dict[str, Any]:
    """What has no column of its own; fields without a value are left out."""
    values = {
        "correlation_id": metadata.correlation_id,
        "causation_id": str(metadata.causation_id) if metadata.causation_id else None,
        "user": metadata.user,
        "traceparent": metadata.traceparent,
        "time": metadata.time.isoformat(),
        "headers": dict(metadata.headers) or None,
    }
    return {name: value for name, value in values.items() if value is not None}
