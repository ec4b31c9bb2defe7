"""Decrypts what a message holds before it is decoded. What is kept of a message that fails stays encrypted."""

from __future__ import annotations

from dataclasses import replace

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.eventstore.subscription import Arrival
from cqrs_fastapi.inbox.envelope import Envelope, message_id_of, open_message
from cqrs_fastapi.inbox.stored import open_stored
from cqrs_fastapi.messages.headers import PACKED, SOURCE
from cqrs_fastapi.messages.json_codec import parse_json, require_json
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.personal_data.tokens import Place

_LONGEST_PACKED = 16_384
_TOLD = ("type", "version", "tenant", SOURCE)


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
    message: IncomingMessage, registry: EventRegistry, personal: PersonalEvents | None, *, max_bytes: int
) -> list[Envelope]:
    """As `open_message`; and the errors of `PersonalEvents.reveal_one`."""
    message = unpacked(message)
    place = _place_of(message) if personal is not None and len(message.payload) <= max_bytes else None
    if personal is None or place is None:
        return open_message(message, registry, max_bytes=max_bytes)
    require_json(message.payload)
    text, key_ids = await personal.reveal_one(place, message.payload)
    if text is None:
        return open_message(message, registry, max_bytes=max_bytes)
    # The limit is for what strangers send; decrypted it is never longer.
    revealed = replace(message, payload=text.encode())
    opened = open_message(revealed, registry, max_bytes=max_bytes)
    return [replace(one, key_ids=key_ids) for one in opened]


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


def _place_of(message: IncomingMessage) -> Place | None:
    """Where the sender keeps it: the key is its stream, unless a header names another. None if the headers do not say
    enough to decrypt anything.
    """
    try:
        headers = {name: message.headers[name].decode() for name in _TOLD if name in message.headers}
        stream = headers.get(SOURCE) or (None if message.key is None else message.key.decode())
        name, version = headers["type"], int(headers.get("version", "1"))
    except (KeyError, ValueError):
        return None
    return Place(headers.get("tenant", ""), stream or f"{name}-{message_id_of(message)}", name, version)
