"""Headers between our strings and Kafka's pairs of name and bytes. What others wrote is bounded before it is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.messages.headers import OURS

MESSAGE_ID = "message-id"
_ENCODABLE = OURS | {"outbox-position"}
"""Names that need not be tried each time."""

MAX_HEADERS = 64
MAX_NAME = 128
MAX_BYTES = 32 << 10
"""Of all names and values of one message together."""

logger = logging.getLogger(__name__)


def to_wire(message: OutgoingMessage) -> list[tuple[str, bytes | None]]:
    """UTF-8 values. The message id is added unless the caller gave one. Raises UnicodeEncodeError for broken text."""
    pairs: list[tuple[str, bytes | None]] = [(name, value.encode()) for name, value in message.headers.items()]
    if not message.headers.keys() <= _ENCODABLE:
        for name in message.headers:
            name.encode()
    if MESSAGE_ID not in message.headers:
        pairs.append((MESSAGE_ID, str(message.message_id).encode()))
    return pairs


def from_wire(pairs: Iterable[tuple[str, bytes | None]]) -> Mapping[str, bytes]:
    """At most 64 headers of 32 KiB in all. One that is too much or has an unprintable name is dropped, and logged.

    A name that comes twice has its last value, which is what Kafka's own clients do.
    """
    kept: dict[str, bytes] = {}
    room, dropped = MAX_BYTES, 0
    for name, value in pairs:
        content = value or b""
        size = len(name) + len(content)
        fits = size <= room and len(name) <= MAX_NAME and (name in kept or len(kept) < MAX_HEADERS)
        if fits and name.isprintable():
            kept[name] = content
            room -= size
        else:
            dropped += 1
    if dropped:
        logger.warning("dropped %d headers of a message that were too many, too large or unprintable", dropped)
    return kept
