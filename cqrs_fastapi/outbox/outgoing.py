"""Rows of the outbox for what is sent under a key that is no stream: routed events, events without one, raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from cqrs_fastapi.errors import MalformedMessageError, MessageTooLargeError
from cqrs_fastapi.eventstore.records import DUE
from cqrs_fastapi.messages.envelopes.envelope import Outbound
from cqrs_fastapi.messages.events import AnyEvent, EventDefinition
from cqrs_fastapi.messages.headers import OURS, SOURCE, context_headers, render_headers
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import RegisteredEvent
from cqrs_fastapi.outbox.buckets import DELAYED
from cqrs_fastapi.outbox.routing import bucket_of, checked_key, is_topic
from cqrs_fastapi.personal_data.fields import conceal
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.tokens import Place

Sendable = Callable[[Outbound, str], None]
"""Raises a MessageError for a message, with its rendered headers, that could not be sent."""

GIVEN = frozenset({"type", "version", "content-type"})
"""Headers of ours that whoever sends bytes may say himself."""


@dataclass(frozen=True, slots=True)
class Due:
    """When a message may be sent: at once, after a delay by the database's clock, or at a moment."""

    delay: timedelta | None = None
    at: datetime | None = None

    def __post_init__(self) -> None:
        if self.delay is not None and self.at is not None:
            raise ValueError("a message is sent after a delay or at a moment; give delay=... or at=..., not both")
        if self.delay is not None and self.delay < timedelta(0):
            raise ValueError(f"the delay {self.delay} is negative; leave it out to send at once")
        if self.at is not None and self.at.tzinfo is None:
            raise ValueError(f"{self.at!r} has no time zone; write datetime.now(UTC) + timedelta(...)")

    @property
    def is_later(self) -> bool:
        return self.delay is not None or self.at is not None


AT_ONCE = Due()


@dataclass(frozen=True, slots=True)
class Address:
    """Where one message goes. `ordered`: it takes its turn with the other writers of its key."""

    topic: str
    key: str | None
    ordered: bool = True
    due: Due = AT_ONCE

    def __post_init__(self) -> None:
        if not is_topic(self.topic):
            raise MalformedMessageError(f"{self.topic!r} is no topic name; use 1-249 letters, digits, '.', '_' or '-'")
        if self.key is not None:
            checked_key(self.key)


def event_payload(
    registered: RegisteredEvent, event: AnyEvent, place: Place, keys: Mapping[str, SubjectKey], max_bytes: int
) -> bytes:
    """An event as it is stored and sent, its personal fields encrypted. MessageTooLargeError over the limit."""
    payload = registered.codec.encode(event)
    if registered.personal:
        payload = conceal(payload, event, registered.personal, keys, place)
    if len(payload) > max_bytes:
        raise MessageTooLargeError(what=type(event).__name__, size=len(payload), limit=max_bytes)
    return payload


def event_row(
    definition: EventDefinition,
    metadata: Metadata,
    address: Address,
    payload: bytes,
    *,
    category: str,
    stream: str | None,
) -> dict[str, Any]:
    """The row of an event. Its headers name its stream where the key does not, and receivers need to know it."""
    source = stream or f"{category}-{metadata.message_id}"
    named = {} if address.key in (None, source) and stream is None else {SOURCE: source}
    headers = render_headers(metadata, definition.version, named)
    return row_of(metadata, address, payload, headers, kind=definition.name, category=category, identity=stream or "")


def outbound_of(row: Mapping[str, Any]) -> Outbound:
    """What an envelope is built of, without the headers, which are rendered already."""
    return Outbound(row["id"], row["type"], row["topic"], row["key"], row["payload"], {}, row["tenant"])


def raw_row(
    metadata: Metadata, address: Address, payload: bytes, headers: Mapping[str, str], *, max_bytes: int
) -> dict[str, Any]:
    """The row of bytes. MessageTooLargeError if payload, key and headers together are over the limit."""
    if reserved := sorted(set(headers) & (OURS - GIVEN)):
        raise MalformedMessageError(
            f"the header {reserved[0]!r} is set by the library; send your own under another name"
        )
    given = {"content-type": "application/octet-stream", **headers, **context_headers(metadata)}
    try:
        rendered = to_json(given)
    except ValueError as error:
        raise MalformedMessageError(f"a header is no text: {type(error).__name__}") from None
    if not all(isinstance(one, str) and "\0" not in one for pair in given.items() for one in pair):
        raise MalformedMessageError("a header has a name or value that is no text; headers are texts without NUL")
    size = len(payload) + len(rendered) + len((address.key or "").encode())
    if size > max_bytes:
        raise MessageTooLargeError(what=f"a message for {address.topic!r}", size=size, limit=max_bytes)
    kind = given.get("type", "")
    return row_of(
        metadata, address, payload, rendered.decode(), kind=kind, category=address.topic, identity=address.key or ""
    )


def row_of(
    metadata: Metadata,
    address: Address,
    payload: bytes,
    headers: str,
    *,
    kind: str,
    category: str,
    identity: str,
) -> dict[str, Any]:
    """A row, with two values beside its columns: `delay` and `ordered`, see `Due` and `Address`."""
    due, message_id = address.due, metadata.message_id
    bucket = home_of(address.key, message_id)
    return {
        "id": message_id,
        "aggregatetype": category,
        "aggregateid": identity,
        "type": kind,
        "topic": address.topic,
        "key": address.key,
        "bucket": DELAYED - bucket if due.is_later else bucket,
        "headers": headers,
        "payload": payload,
        "attempts": 0,
        "available_at": due.at or DUE,
        "delay": None if due.delay is None else due.delay.total_seconds(),
        "ordered": address.ordered and not due.is_later,
        "tenant": metadata.tenant or "",
        "created_at": metadata.time,
    }


def home_of(key: str | None, message_id: UUID) -> int:
    """The bucket of a message that is due."""
    return bucket_of(str(message_id) if key is None else key)
