"""Events before and after they are stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Table

from cqrs_fastapi.eventstore.expected_version import ExpectedVersion

MAX_STREAM_LENGTH = 200
_STREAM = re.compile(r"[A-Za-z0-9_.:@/-]+")


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event as it will be stored; `data` and `metadata` are JSON text."""

    message_id: UUID
    type: str
    schema_version: int
    data: str
    metadata: str


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events for one stream. `category` is what the stream is a member of."""

    stream: str
    category: str
    expected: ExpectedVersion
    events: tuple[NewEvent, ...]


@dataclass(frozen=True, slots=True)
class SiblingRows:
    """Rows of another table that are written in the same transaction; the event store does not know what they mean."""

    table: Table
    rows: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StoredEvent:
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


@dataclass(frozen=True, slots=True)
class RecordedEvent:
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
