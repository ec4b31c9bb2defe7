"""From an untrusted message of a broker to an event with its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid5

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.messages.envelopes.envelope import Opened
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry


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


def decode(opened: Opened, registry: EventRegistry) -> list[Envelope]:
    """Its events, mostly one. Raises a MessageError that says what is unknown or malformed."""
    return envelopes_of(registry.read(opened.type, opened.version, opened.data), opened.metadata)
