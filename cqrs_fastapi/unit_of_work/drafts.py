"""From events that were recorded to the rows that store and send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from cqrs_fastapi.errors import MessageTooLargeError
from cqrs_fastapi.eventstore.expected_version import ExpectedVersion
from cqrs_fastapi.eventstore.records import AppendUnit, Condition, IdempotencyRecord, NewEvent, StreamAppend
from cqrs_fastapi.messages.events import AnyEvent, EventDefinition, tags_of
from cqrs_fastapi.messages.headers import render_headers
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.outbox.rows import row_of, sending_of
from cqrs_fastapi.outbox.sizes import require_sendable
from cqrs_fastapi.personal_data.events import NO_KEYS
from cqrs_fastapi.personal_data.fields import conceal
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.tokens import Place


class Draft(NamedTuple):
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
    message_bytes: int | None = None
    """Of what is sent, with its key and headers."""


@dataclass(slots=True)
class Prepared:
    """Rows, ready to be written. It is falsy when there are none."""

    appends: list[StreamAppend] = field(default_factory=list)
    outbox: list[dict[str, Any]] = field(default_factory=list)
    sends: bool = False
    """Whether anything of it goes to a broker."""

    def __bool__(self) -> bool:
        return bool(self.appends or self.outbox)

    def unit(
        self, tenant: str, now: datetime, record: IdempotencyRecord | None, condition: Condition | None
    ) -> AppendUnit:
        """All of it, as it is appended."""
        return AppendUnit(tenant, now, self.appends, self.outbox, record, condition)


def prepare_rows(
    drafts: Sequence[Draft],
    registry: EventRegistry,
    routing: Routing,
    limits: Limits,
    keys: Mapping[str, SubjectKey] = NO_KEYS,
) -> Prepared:
    """Encode every draft once, its personal fields encrypted with the `keys` of their subjects. Raises
    MessageTooLargeError, and UnknownMessageError for an unregistered event.
    """
    if len(drafts) > limits.append_events:
        raise MessageTooLargeError(what="the unit of work", size=len(drafts), limit=limits.append_events, unit="events")
    prepared = Prepared()
    streams: dict[str, tuple[Draft, list[NewEvent]]] = {}
    for draft in drafts:
        event, metadata, stream, category, _ = draft
        registered = registry.of(event)
        definition = registered.definition
        payload = registered.codec.encode(event)
        if registered.personal:
            payload = conceal(payload, event, registered.personal, keys, _place(draft, definition))
        if len(payload) > limits.event_bytes:
            raise MessageTooLargeError(what=type(event).__name__, size=len(payload), limit=limits.event_bytes)
        headers = render_headers(metadata, definition.version)
        topic = routing.topic_of(registered.event_type)
        if topic is not None:
            prepared.sends = True
            require_sendable(
                type(event).__name__,
                payload=payload,
                key=stream or "",
                headers=headers,
                words=(definition.name, metadata.tenant or ""),
                limit=limits.message_bytes,
            )
            if stream is None:
                prepared.outbox.append(row_of(definition, metadata, category, topic, payload))
                continue
        elif stream is None:  # it would be lost, so it gets a stream of its own
            stream = f"{category}-{metadata.message_id}"
        stored = NewEvent(
            metadata.message_id,
            definition.name,
            definition.version,
            payload.decode(),
            headers,
            None if topic is None else sending_of(metadata, stream, topic),
            tags_of(event) if definition.tags else (),
            bool(definition.tags),
        )
        if stream in streams:
            streams[stream][1].append(stored)
        else:
            streams[stream] = (draft, [stored])
    for stream, (draft, events) in streams.items():
        prepared.appends.append(StreamAppend(stream, draft.category, draft.expected, tuple(events)))
    return prepared


def _place(draft: Draft, definition: EventDefinition) -> Place:
    """What the encrypted values are bound to, whether the event is stored, sent or both."""
    stream = draft.stream or f"{draft.category}-{draft.metadata.message_id}"
    return Place(draft.metadata.tenant or "", stream, definition.name, definition.version)
