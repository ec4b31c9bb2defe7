"""Which topic an event goes to, and which messages a service must consume."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from cqrs_fastapi.messages.events import AnyEvent, definition_of

BUCKETS = 64
"""Rows are spread over this many buckets by the hash of their key; stored rows depend on it, so it never changes."""


@dataclass(frozen=True, slots=True)
class Routing:
    """`service` names the topic of events that only this service's own durable handlers are waiting for."""

    service: str
    handled: frozenset[type]

    def topic_of(self, event_type: type[AnyEvent]) -> str | None:
        """The event's own topic, or the internal one if a durable handler is bound, or None: it stays in the store."""
        topic = definition_of(event_type).topic
        if topic is not None:
            return topic
        return self.internal_topic if event_type in self.handled else None

    @property
    def internal_topic(self) -> str:
        return f"{self.service}.internal"

    def topics_of(self, event_types: Iterable[type[AnyEvent]]) -> list[str]:
        """The topics of these events, each once, sorted."""
        return sorted({topic for event_type in event_types if (topic := self.topic_of(event_type)) is not None})


def bucket_of(key: str | None, fallback: str) -> int:
    """The bucket of a key; a message without a key is spread by its `fallback`, its own identifier."""
    return zlib.crc32((key if key is not None else fallback).encode()) % BUCKETS
