"""From events that were recorded to the rows that store and send them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.errors import MessageTooLargeError
from cqrs_fastapi.eventstore.expected_version import NO_STREAM, ExpectedVersion
from cqrs_fastapi.eventstore.records import AppendUnit, Condition, IdempotencyRecord, NewEvent, Sending, StreamAppend
from cqrs_fastapi.messages.envelopes.envelope import Outbound
from cqrs_fastapi.messages.events import AnyEvent, EventDefinition, tags_of
from cqrs_fastapi.messages.headers import render_headers
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.outgoing import Address, Sendable, event_payload, event_row, outbound_of
from cqrs_fastapi.outbox.routing import Route, Routing
from cqrs_fastapi.outbox.rows import sending_of
from cqrs_fastapi.personal_data.events import NO_KEYS
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.tokens import Place


class Draft(NamedTuple):
    """An event on its way into the store. `stream` is None for one that belongs to no aggregate."""

    event: AnyEvent
    metadata: Metadata
    stream: str | None
    category: str
    expected: ExpectedVersion


def _whatever(message: Outbound, headers: str) -> None:
    """Where nothing is sent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes; what is over them is refused before anything is written."""

    event_bytes: int
    append_events: int
    require_sendable: Sendable = _whatever


class Sources(Protocol):
    """What rows are made with."""

    @property
    def registry(self) -> EventRegistry: ...

    @property
    def routing(self) -> Routing: ...

    @property
    def limits(self) -> Limits: ...


@dataclass(slots=True)
class Prepared:
    """Rows, ready to be written. It is falsy when there are none."""

    appends: list[StreamAppend] = field(default_factory=list)
    outbox: list[Mapping[str, Any]] = field(default_factory=list)
    sends: bool = False
    """Whether anything of it goes to a broker."""

    def __bool__(self) -> bool:
        return bool(self.appends or self.outbox)

    def unit(
        self, tenant: str, now: datetime, record: IdempotencyRecord | None, condition: Condition | None
    ) -> AppendUnit:
        """All of it, as it is appended."""
        return AppendUnit(tenant, now, self.appends, self.outbox, record, condition)


def recorded_since(
    aggregates: Mapping[str, Aggregate], seen: dict[str, int], now: Callable[[], datetime]
) -> Iterator[tuple[AnyEvent, str, str, ExpectedVersion]]:
    """What aggregates have recorded beyond the numbers that were seen, which become those of now."""
    for stream, aggregate in aggregates.items():
        if isinstance(aggregate, RootEntity):
            aggregate.record_changes(now())
        recorded = aggregate.recorded
        for event in recorded[seen.get(stream, 0) :]:
            yield event, stream, aggregate.__category__, aggregate.version or NO_STREAM
        seen[stream] = len(recorded)


def prepare_rows(
    drafts: Sequence[Draft],
    sources: Sources,
    keys: Mapping[str, SubjectKey] = NO_KEYS,
    outgoing: Sequence[Mapping[str, Any]] = (),
) -> Prepared:
    """Encode every draft once, its personal fields encrypted with the `keys` of their subjects; `outgoing` are rows of
    the outbox that are ready. Raises MessageTooLargeError, also for what would be so on its way; MalformedMessageError
    for what could not be sent; and UnknownMessageError for an unregistered event.
    """
    registry, routing, limits = sources.registry, sources.routing, sources.limits
    events = len(drafts) + len(outgoing)
    if events > limits.append_events:
        raise MessageTooLargeError(what="the unit of work", size=events, limit=limits.append_events, unit="events")
    prepared = Prepared(outbox=[*outgoing], sends=bool(outgoing))
    streams: dict[str, tuple[Draft, list[NewEvent]]] = {}
    for draft in drafts:
        event, metadata, stream, category, _ = draft
        registered = registry.of(event)
        definition = registered.definition
        payload = event_payload(registered, event, _place(draft, definition), keys, limits.event_bytes)
        address, sending = _destination(draft, routing.of(registered.event_type))
        headers = render_headers(metadata, definition.version)
        if address is not None:
            row = event_row(definition, metadata, address, payload, category=category, stream=stream)
            limits.require_sendable(outbound_of(row), row["headers"])
            prepared.outbox.append(row)
        elif sending is not None:
            sent = Outbound(
                metadata.message_id, definition.name, sending.topic, stream, payload, {}, metadata.tenant or ""
            )
            limits.require_sendable(sent, headers)
        prepared.sends |= address is not None or sending is not None
        if stream is None:
            if address is not None:
                continue
            stream = f"{category}-{metadata.message_id}"  # it would be lost, so it gets a stream of its own
        stored = NewEvent(
            metadata.message_id,
            definition.name,
            definition.version,
            payload.decode(),
            headers,
            sending,
            tags_of(event) if definition.tags else (),
            bool(definition.tags),
        )
        if stream in streams:
            streams[stream][1].append(stored)
        else:
            streams[stream] = (draft, [stored])
    for stream, (draft, several) in streams.items():
        prepared.appends.append(StreamAppend(stream, draft.category, draft.expected, tuple(several)))
    return prepared


def _destination(draft: Draft, route: Route | None) -> tuple[Address | None, Sending | None]:
    """Under its stream as the key an event is sent with its own row; under another key by a row of its own."""
    if route is None:
        return None, None
    key = route.key_of(draft.event, draft.stream)
    if key is not None and key == draft.stream:
        return None, sending_of(draft.metadata, key, route.topic)
    return Address(route.topic, key, route.ordered), None


def _place(draft: Draft, definition: EventDefinition) -> Place:
    """What the encrypted values are bound to, whether the event is stored, sent or both."""
    stream = draft.stream or f"{draft.category}-{draft.metadata.message_id}"
    return Place(draft.metadata.tenant or "", stream, definition.name, definition.version)
