"""From an untrusted message of a broker to an event with its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.errors import MalformedMessageError, MessageTooLargeError
from cqrs_fastapi.messages.headers import OURS
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry

_LONGEST_VALUE = 1024


@dataclass(frozen=True, slots=True)
class Envelope:
    """An event of a message that was understood. The metadata have an id of its own, see `envelopes_of`; `key_ids` are
    those of the subjects whose personal data the message holds.
    """

    event: Any
    metadata: Metadata
    key_ids: frozenset[UUID] = frozenset()


def envelopes_of(events: Sequence[Any], metadata: Metadata) -> list[Envelope]:
    """One for each event that a message was read as. The first has the message's id; each other has one that follows
    from it and from its place, so that a handler's inbox tells them apart, today and after a restart.
    """
    return [
        Envelope(event, replace(metadata, message_id=uuid5(metadata.message_id, str(ordinal))) if ordinal else metadata)
        for ordinal, event in enumerate(events)
    ]


def text_headers(message: IncomingMessage) -> dict[str, str]:
    """All headers as text, for people; bytes that are no text are shown as escapes."""
    return {name: value.decode("utf-8", "backslashreplace") for name, value in message.headers.items()}


def message_id_of(message: IncomingMessage) -> UUID | None:
    """The identifier in the headers, if there is a valid one."""
    try:
        return UUID(message.headers["message-id"].decode("ascii"))
    except (KeyError, ValueError):
        return None


def open_message(message: IncomingMessage, registry: EventRegistry, *, max_bytes: int) -> list[Envelope]:
    """Its events, mostly one. Raises a MessageError that says what is missing, unknown, malformed or too large."""
    if len(message.payload) > max_bytes:
        raise MessageTooLargeError(what="the payload", size=len(message.payload), limit=max_bytes)
    headers = _texts(message)
    metadata = _metadata(headers, message.sent_at)
    events = registry.read(_required(headers, "type"), _version(headers), message.payload)
    return envelopes_of(events, metadata)


def metadata_of(message: IncomingMessage) -> Metadata:
    """Of a message whose type is known without its headers. Raises MalformedMessageError."""
    return _metadata(_texts(message), message.sent_at)


def _texts(message: IncomingMessage) -> dict[str, str]:
    return {name: _text(name, value) for name, value in message.headers.items()}


def _metadata(headers: Mapping[str, str], sent_at: datetime) -> Metadata:
    message_id = _uuid("message-id", _required(headers, "message-id"))
    causation = headers.get("causation-id")
    return Metadata(
        message_id=message_id,
        correlation_id=headers.get("correlation-id") or str(message_id),
        time=_time(headers, sent_at),
        causation_id=_uuid("causation-id", causation) if causation else None,
        user=headers.get("user"),
        tenant=headers.get("tenant"),
        traceparent=headers.get("traceparent"),
        headers={name: value for name, value in headers.items() if name not in OURS},
    )


def _required(headers: Mapping[str, str], name: str) -> str:
    try:
        return headers[name]
    except KeyError:
        raise MalformedMessageError(f"the header {name!r} is missing") from None


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise MalformedMessageError(f"the header {name!r} is not UTF-8") from None
    if len(text) > _LONGEST_VALUE or not text.isprintable():
        raise MalformedMessageError(f"the header {name!r} is longer than {_LONGEST_VALUE} or not printable")
    return text


def _version(headers: Mapping[str, str]) -> int:
    text = headers.get("version", "1")
    if not (text.isascii() and text.isdigit() and len(text) < 6):  # noqa: PLR2004  # a five-digit version is far enough
        raise MalformedMessageError(f"the header 'version' is {text[:20]!r}; it must be a whole number")
    return int(text)


def _uuid(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise MalformedMessageError(f"the header {name!r} is no UUID: {text[:40]!r}") from None


def _time(headers: Mapping[str, str], sent_at: datetime) -> datetime:
    text = headers.get("time")
    if text is None:
        return sent_at
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedMessageError(f"the header 'time' is no ISO 8601 time: {text[:40]!r}") from None
    if time.tzinfo is None:
        raise MalformedMessageError("the header 'time' has no time zone")
    return time
