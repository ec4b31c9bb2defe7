"""The form of a topic's messages: how an event becomes bytes and headers, and what a stranger's message says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from cqrs_fastapi.messages.envelopes.codecs import JSON
from cqrs_fastapi.messages.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Outbound:
    """An event as the outbox keeps it. `headers` are those of `render_headers`, `payload` is of the `content_type`."""

    message_id: UUID
    type: str
    topic: str
    key: str | None
    payload: bytes
    headers: Mapping[str, str]
    tenant: str = ""
    content_type: str = JSON


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is sent. The broker's adapter adds the header `message-id` where it is missing."""

    payload: bytes
    headers: Mapping[str, str]


class Inbound(Protocol):
    """A message as a broker gave it: nothing of it is trusted or decoded yet."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, bytes]: ...
    @property
    def sent_at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """What a message says: which event it is, at which version, and its data, which nobody has decoded yet."""

    type: str
    version: int
    data: bytes
    content_type: str
    metadata: Metadata


class Envelope(Protocol):
    """One for each topic, by `CQRS(envelopes={"orders": CloudEvents(source="/shop")})`. None of the three may wait.

    The bounds on size, number and length that all messages keep are checked before `parse` and after it, whatever the
    envelope; what it inflates by itself it has to bound itself.
    """

    def build(self, message: Outbound) -> Sealed:
        """The same bytes for the same message each time: it is called before the commit, to find out its size, and
        again by the relay. MalformedMessageError for what this topic cannot carry.
        """
        ...

    def parse(self, message: Inbound, *, max_bytes: int) -> Opened:
        """Take a message apart. `max_bytes` is the limit of what is inflated. Raises MessageErrors and nothing else,
        whatever the bytes; what is given with `Opened.metadata` is printable and bounded.
        """
        ...

    def validate(self, message: Inbound, opened: Opened) -> None:
        """Raise a MessageError for a message that could be taken apart and must not be handled."""
        ...
