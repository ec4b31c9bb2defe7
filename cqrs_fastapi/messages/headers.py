"""What a message carries besides its payload: in the store as JSON, on its way as the headers of a broker's message.

Headers from outside are bounded here, for every broker. Ours are refused if they are malformed; those of others that
are too much, too long or no printable text are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_json

from cqrs_fastapi.errors import MalformedMessageError, MessageTooLargeError
from cqrs_fastapi.messages.metadata import NO_HEADERS, Metadata

REPLY_TO, REPLY_TOKEN, REPLY_STATUS = "reply-to", "reply-token", "reply-status"
"""Between whoever sends a request over the broker and whoever answers it."""

OURS = frozenset(
    {"message-id", "type", "version", "content-type", "time", "correlation-id", "causation-id", "user", "tenant"}
    | {"traceparent", "content-encoding", "outbox-position", "source-stream"}
    | {REPLY_TO, REPLY_TOKEN, REPLY_STATUS}
)
"""All other headers are the user's own, `Metadata.headers`."""

SOURCE = "source-stream"
"""The stream of an event, where the key of its message is another. Personal values are bound to it."""

MAX_HEADERS = 256
MAX_HEADER_BYTES = 64 << 10
"""Of all names and values of one message together: one with more is refused."""
MAX_KEPT = 64
MAX_KEPT_BYTES = 8 << 10
"""Of the user's own headers: they travel on with every message that follows."""
MAX_NAME = 128
MAX_VALUE = 1024
MAX_TENANT = 255

_CORRELATION_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LONGEST_VERSION = 5

PACKED = "cqrs-headers"
"""All of the stored headers in one, as JSON: Debezium can put a column into a header, and not a column into many."""


def render_headers(metadata: Metadata, version: int, more: Mapping[str, str] | None = None) -> str:
    """As JSON text, with `more` of ours. What has a column of its own is not among it, and what has no value is left
    out. MalformedMessageError for headers that whoever receives them would not accept.
    """
    headers = {"version": str(version), **context_headers(metadata)}
    if more:
        headers |= more
    if metadata.headers:
        headers = {**_sendable(metadata.headers), **headers}
    try:
        return to_json(headers).decode()
    except PydanticSerializationError:
        raise MalformedMessageError("the metadata of a message holds text that is no Unicode") from None


def context_headers(metadata: Metadata) -> dict[str, str]:
    """When, why and on whose behalf a message is sent."""
    headers = {"time": metadata.time.isoformat(), "correlation-id": metadata.correlation_id}
    if metadata.causation_id is not None:
        headers["causation-id"] = str(metadata.causation_id)
    if metadata.user:
        headers["user"] = metadata.user
    if metadata.traceparent:
        headers["traceparent"] = metadata.traceparent
    return headers


def all_headers(
    message_id: UUID, type: str, tenant: str, stored: Mapping[str, Any], *, content_type: str = "application/json"
) -> dict[str, str]:
    """Those that are sent: what the columns say, and what is stored as JSON, which may have a type of content."""
    headers = {"message-id": str(message_id)}
    if type:
        headers["type"] = type
    if tenant:
        headers["tenant"] = tenant
    return {"content-type": content_type, **stored, **headers}


def require_bounded(raw: Mapping[str, bytes]) -> None:
    """Refuse a message with more headers than anybody means, before one of them is looked at."""
    if len(raw) > MAX_HEADERS:
        raise MessageTooLargeError(what="the message", size=len(raw), limit=MAX_HEADERS, unit="headers")
    size = sum(len(name) + len(value) for name, value in raw.items())
    if size > MAX_HEADER_BYTES:
        raise MessageTooLargeError(what="the headers", size=size, limit=MAX_HEADER_BYTES)


class OwnHeaders:
    """Reads headers that mean something to us: printable text of at most 1024 characters, else it is malformed."""

    __slots__ = ("raw",)

    def __init__(self, raw: Mapping[str, bytes]) -> None:
        self.raw = raw

    def get(self, name: str) -> str | None:
        value = self.raw.get(name)
        return None if value is None else printable(f"the header {name!r}", value)

    def required(self, name: str) -> str:
        text = self.get(name)
        if not text:
            raise MalformedMessageError(f"the header {name!r} is missing")
        return text

    def uuid(self, name: str, text: str) -> UUID:
        return uuid_of(f"the header {name!r}", text)

    def version(self) -> int:
        return version_of("the header 'version'", self.get("version"))

    def others(self, but: str | None = None) -> Mapping[str, str]:
        """The user's own, at most 64 of 8 KiB in all, and none that begins with `but`; see `MAX_KEPT`."""
        if self.raw.keys() <= OURS:
            return NO_HEADERS
        kept: dict[str, str] = {}
        room = MAX_KEPT_BYTES
        for name, value in self.raw.items():
            if name in OURS or (but is not None and name.startswith(but)):
                continue
            text = _clean(name, value)
            room -= 0 if text is None else len(name) + len(value)
            if text is not None and room >= 0 and len(kept) < MAX_KEPT:
                kept[name] = text
        return kept


def context_of(own: OwnHeaders, message_id: UUID, sent_at: datetime) -> Metadata:
    """Who caused a message, as its headers say it. A correlation id or trace that is none is replaced, not refused."""
    causation = own.get("causation-id")
    return metadata_of(
        message_id,
        time=time_of("the header 'time'", own.get("time")) or sent_at,
        correlation_id=own.raw.get("correlation-id"),
        causation_id=own.uuid("causation-id", causation) if causation else None,
        user=own.get("user"),
        tenant=own.get("tenant"),
        traceparent=own.raw.get("traceparent"),
        headers=own.others(),
    )


def metadata_of(
    message_id: UUID,
    *,
    time: datetime,
    correlation_id: bytes | None = None,
    causation_id: UUID | None = None,
    user: str | None = None,
    tenant: str | None = None,
    traceparent: bytes | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Metadata:
    """Of a message from outside. MalformedMessageError for a tenant or user that is too long to be one."""
    for name, text in (("tenant", tenant), ("user", user)):
        if text is not None and len(text) > MAX_TENANT:
            raise MalformedMessageError(f"the {name} of the message has {len(text)} characters, the limit is 255")
    return Metadata(
        message_id=message_id,
        correlation_id=_matching(_CORRELATION_ID, correlation_id) or str(message_id),
        time=time,
        causation_id=causation_id,
        user=user or None,
        tenant=tenant or None,
        traceparent=_matching(_TRACEPARENT, traceparent),
        headers=headers,
    )


def printable(what: str, value: bytes) -> str:
    """The text of a value from outside. MalformedMessageError for what is no printable text, or too long."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise MalformedMessageError(f"{what} is not UTF-8") from None
    if len(text) > MAX_VALUE or not text.isprintable():
        raise MalformedMessageError(f"{what} is longer than {MAX_VALUE} or not printable")
    return text


def uuid_of(what: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise MalformedMessageError(f"{what} is no UUID: {text[:40]!r}") from None


def version_of(what: str, text: str | None) -> int:
    """A whole number of at most five digits; 1 where none is given."""
    if text is None:
        return 1
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_VERSION):
        raise MalformedMessageError(f"{what} is {text[:20]!r}; it must be a whole number")
    return int(text)


def time_of(what: str, text: str | None) -> datetime | None:
    """With a time zone; None where none is given."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedMessageError(f"{what} is no ISO 8601 time: {text[:40]!r}") from None
    if time.tzinfo is None:
        raise MalformedMessageError(f"{what} has no time zone")
    return time


def _matching(pattern: re.Pattern[str], value: bytes | None) -> str | None:
    text = "" if value is None else value.decode("ascii", "replace")
    return text if pattern.fullmatch(text) else None


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """The user's own, less those that are called like ours, which would be taken for ours."""
    for name, value in headers.items():
        if _clean(name, value.encode("utf-8", "surrogatepass")) is None:
            raise MalformedMessageError(
                f"the header {name[:40]!r} cannot be sent: names are printable ASCII without spaces, up to {MAX_NAME} "
                f"characters, values printable text up to {MAX_VALUE}"
            )
    return {name: value for name, value in headers.items() if name not in OURS}


def _clean(name: str, value: bytes) -> str | None:
    """The text of a header of somebody else's; None if it is none."""
    if not (0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable() and " " not in name):
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if len(text) <= MAX_VALUE and text.isprintable() else None
