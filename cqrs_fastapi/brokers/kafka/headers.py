"""Headers between our strings and Kafka's pairs of name and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.messages.headers import OURS

MESSAGE_ID = "message-id"
_ENCODABLE = OURS | {"outbox-position"}
"""Names that need not be tried each time."""


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
    """A name that comes twice has its last value, which is what Kafka's own clients take. What is too much is refused
    where messages are opened, alike for every broker.
    """
    return {name: value or b"" for name, value in pairs}
