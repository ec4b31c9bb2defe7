"""Events before and after they are stored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from cqrs_fastapi.eventstore.expected_version import ExpectedVersion, checked

MAX_STREAM_LENGTH = 200
_STREAM = re.compile(r"[A-Za-z0-9_.:@/-]+")

DUE = datetime.fromtimestamp(0, UTC)
"""Since when a message of the outbox is due that waits for no time: clocks that differ never hold one back."""


class Sending(NamedTuple):
    """What a stored event's row of the outbox has besides the event's own columns."""

    topic: str
    bucket: int
    time: datetime


class NewEvent(NamedTuple):
    """An event as it will be stored, and sent if there is a `sending`; `data` and `metadata` are JSON
    text; the `metadata` are the headers it is sent with.
    """

    message_id: UUID
    type: str
    schema_version: int
    data: str
    metadata: str
    sending: Sending | None = None
    tags: tuple[str, ...] = ()
    is_tagged: bool = False
    """Whether its type declares tags, even if this event carries none."""


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events for one stream. `category` is what the stream is a member of."""

    stream: str
    category: str
    expected: ExpectedVersion
    events: tuple[NewEvent, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", checked(self.expected))  # 0 has a name


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """That a command with this key was answered, and with what. `user` is empty for nobody; `response` is JSON text."""

    user: str
    key: str
    command: str
    ordinal: int
    fingerprint: str
    response: str


@dataclass(frozen=True, slots=True)
class Matching:
    """Events of one of these types (any, if empty) that carry all of these tags."""

    types: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """Nothing that matches came after position `after`, except at the positions `seen`: what a decision has read."""

    after: int
    seen: tuple[int, ...]
    matching: tuple[Matching, ...]

    @property
    def name(self) -> str:
        """What a conflict calls it, where else a stream is named."""
        return f"({', '.join(' '.join(one.tags or one.types) for one in self.matching)})"


@dataclass(frozen=True, slots=True)
class AppendUnit:
    """What one unit of work writes, all of it or nothing: streams, rows of the outbox for what is sent under a key that
    is no stream, the record of its command. `now` is when it was ready to be written.

    A row of the outbox has the table's columns but its position. `ordered`: writers of its topic and key take turns.
    `delay`: seconds after which it is due by the database's clock, instead of `available_at`.
    """

    tenant: str
    now: datetime
    appends: Sequence[StreamAppend] = ()
    outbox: Sequence[Mapping[str, Any]] = ()
    record: IdempotencyRecord | None = None
    condition: Condition | None = None

    @property
    def rows(self) -> int:
        """About how many rows it is."""
        rows = len(self.outbox) + (self.record is not None)
        for one in self.appends:
            rows += len(one.events) + 1
        return rows

    @property
    def record_key(self) -> tuple[str, str, str, str, int] | None:
        """What identifies the record."""
        one = self.record
        return None if one is None else (self.tenant, one.user, one.key, one.command, one.ordinal)

    @property
    def collides(self) -> bool:
        """Whether a second attempt could not be committed beside the first."""
        return self.record is not None or any(one.events for one in self.appends)


class StoredEvent(NamedTuple):
    """A row of the events table, not decoded."""

    position: int
    message_id: UUID
    stream: str
    version: int
    type: str
    schema_version: int
    data: str
    metadata: str
    recorded_at: datetime


class RecordedEvent(NamedTuple):
    """An event of the store, decoded. `position` orders all events, `version` those of the stream (from 1)."""

    position: int
    stream: str
    version: int
    message_id: UUID
    recorded_at: datetime
    event: Any


def checked_stream(stream: str) -> str:
    """A stream's name: 1 to 200 letters, digits and `_ . : @ / -`. A ValueError says what is wrong with it."""
    if len(stream) > MAX_STREAM_LENGTH:
        raise ValueError(
            f"the stream name {stream[:40]!r}… has {len(stream)} characters; {MAX_STREAM_LENGTH} are allowed"
        )
    if not _STREAM.fullmatch(stream):
        raise ValueError(f"{stream!r} is no stream name: use letters, digits and _ . : @ / - only")
    return stream
