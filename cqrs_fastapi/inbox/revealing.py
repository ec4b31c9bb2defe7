"""Decrypts what a message holds before it is decoded. What is kept of a message that fails stays encrypted."""

from __future__ import annotations

from dataclasses import replace

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.eventstore.subscription import Arrival
from cqrs_fastapi.inbox.envelope import Envelope, decode
from cqrs_fastapi.inbox.stored import open_stored
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.messages.envelopes.envelope import Opened
from cqrs_fastapi.messages.headers import PACKED, SOURCE
from cqrs_fastapi.messages.json_codec import parse_json, require_json
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.personal_data.tokens import Place

_LONGEST_PACKED = 16_384


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
    message = unpacked(message)
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


def unpacked(message: IncomingMessage) -> IncomingMessage:
    """With the headers that Debezium has put into one, as the outbox has them; those that it names itself count more.
    MalformedMessageError if that one is no JSON object of texts.
    """
    packed = message.headers.get(PACKED)
    if packed is None:
        return message
    values = parse_json(packed) if len(packed) <= _LONGEST_PACKED else None
    if not isinstance(values, dict) or not all(isinstance(one, str) for one in values.values()):
        raise MalformedMessageError(
            f"the header {PACKED!r} is no JSON object of texts, or over {_LONGEST_PACKED} bytes"
        )
    rest = {name: value for name, value in message.headers.items() if name != PACKED}
    return replace(message, headers={**{name: value.encode() for name, value in values.items()}, **rest})


def _place_of(message: IncomingMessage, opened: Opened) -> Place:
    """Where the sender keeps it: the key is its stream, unless a header names another. What is no text is no stream,
    and decrypts nothing.
    """
    named = message.headers.get(SOURCE) or message.key or b""
    metadata = opened.metadata
    stream = named.decode("utf-8", "backslashreplace") or f"{opened.type}-{metadata.message_id}"
    return Place(metadata.tenant or "", stream, opened.type, opened.version)
