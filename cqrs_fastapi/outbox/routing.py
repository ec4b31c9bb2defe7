"""Which topic an event goes to."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from cqrs_fastapi.messages.events import AnyEvent, definition_of

BUCKETS = 64
"""Rows are spread over this many buckets by the hash of their key; stored rows depend on it, so it never changes."""


@dataclass(frozen=True, slots=True)
class Routing:
    """By the events' own topics. Durable handlers of the own service need none: they read the store."""

    def topic_of(self, event_type: type[AnyEvent]) -> str | None:
        """Where the event is sent, or None: it stays in the store."""
        return definition_of(event_type).topic

    def topics_of(self, event_types: Iterable[type[AnyEvent]]) -> list[str]:
        """The topics of these events, each once, sorted."""
        return sorted({topic for event_type in event_types if (topic := self.topic_of(event_type)) is not None})


def bucket_of(key: str) -> int:
    """The bucket of a key; a message without one is spread by its own identifier."""
    return zlib.crc32(key.encode()) % BUCKETS
