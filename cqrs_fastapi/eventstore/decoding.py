"""From rows of the store to events: mostly one of each, several or none where upcasters say so."""

from __future__ import annotations

from typing import Any

from cqrs_fastapi.errors import MessageError
from cqrs_fastapi.eventstore.records import RecordedEvent, StoredEvent
from cqrs_fastapi.messages.registry import EventRegistry


def events_in(stored: StoredEvent, registry: EventRegistry) -> list[Any]:
    """Raises the MessageError of the registry, which then tells the place of the event, too."""
    try:
        return registry.read(stored.type, stored.schema_version, stored.data.encode())
    except MessageError as error:
        placed(error, stored.stream, stored.version, stored.type, stored.schema_version)
        raise


def placed(error: MessageError, stream: str, version: int, name: str, schema_version: int) -> MessageError:
    """The error, which tells from now on where in the store the event is."""
    error.args = (f"version {version} of stream {stream!r}, {name!r} version {schema_version}: {error}",)
    return error


def decoded(stored: StoredEvent, registry: EventRegistry) -> list[RecordedEvent]:
    """The events in a row, all with its position, version and message id. See `events_in` for errors."""
    position, message_id, stream, version = stored[:4]
    return [
        RecordedEvent(position, stream, version, message_id, stored.recorded_at, event)
        for event in events_in(stored, registry)
    ]
