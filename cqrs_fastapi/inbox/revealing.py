"""Decrypts what a message holds before it is decoded. What is kept of a message that fails stays encrypted."""

from __future__ import annotations

from dataclasses import replace

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.eventstore.subscription import Arrival
from cqrs_fastapi.inbox.envelope import Envelope, decode
from cqrs_fastapi.inbox.stored import open_stored
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.messages.envelopes.envelope import Opened
from cqrs_fastapi.messages.headers import SOURCE
from cqrs_fastapi.messages.json_codec import require_json
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.personal_data.tokens import Place


async def reveal_stored(arrival: Arrival, registry: EventRegistry, personal: PersonalEvents | None) -> list[Envelope]:
    """As `open_stored`; and the errors of `PersonalEvents.reveal_one`."""
    if personal is None:
        return open_stored(arrival, registry)
    stored = arrival.stored
    place = Place(arrival.tenant, stored.stream, stored.type, stored.schema_version)
    text, key_ids = await personal.reveal_one(place, stored.data)
    if text is None:
        return open_stored(arrival, registry)
    revealed = arrival._replace(stored=stored._replace(data=text))
    return [replace(one, key_ids=key_ids) for one in open_stored(revealed, registry)]


async def reveal_message(
    message: IncomingMessage,
    registry: EventRegistry,
    personal: PersonalEvents | None,
    envelopes: Envelopes,
    *,
    max_bytes: int,
) -> list[Envelope]:
    """Its events, mostly one. Raises a MessageError that says what is missing, unknown, malformed or too large; and
    the errors of `PersonalEvents.reveal_one`.
    """
    opened = envelopes.open(message, max_bytes=max_bytes)
    if personal is None:
        return decode(opened, registry)
    require_json(opened.data)
    text, key_ids = await personal.reveal_one(_place_of(message, opened), opened.data)
    if text is None:
        return decode(opened, registry)
    # The limit is for what strangers send; decrypted it is never longer.
    revealed = replace(opened, data=text.encode())
    return [replace(one, key_ids=key_ids) for one in decode(revealed, registry)]


def _place_of(message: IncomingMessage, opened: Opened) -> Place:
    """Where the sender keeps it: the key is its stream, unless a header names another. What is no text is no stream,
    and decrypts nothing.
    """
    named = message.headers.get(SOURCE) or message.key or b""
    metadata = opened.metadata
    stream = named.decode("utf-8", "backslashreplace") or f"{opened.type}-{metadata.message_id}"
    return Place(metadata.tenant or "", stream, opened.type, opened.version)
