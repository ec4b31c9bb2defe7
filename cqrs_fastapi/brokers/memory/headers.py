"""Headers as a consumer will see them. Nothing foreign can arrive here, so nothing needs a limit on the way in."""

from __future__ import annotations

from collections.abc import Mapping

from cqrs_fastapi.brokers.broker import OutgoingMessage

MESSAGE_ID = "message-id"


def to_wire(message: OutgoingMessage) -> Mapping[str, bytes]:
    """UTF-8 values, as on a wire. The message id is added unless the caller gave one."""
    wire = {name: value.encode() for name, value in message.headers.items()}
    wire.setdefault(MESSAGE_ID, str(message.message_id).encode())
    return wire


def size(message: OutgoingMessage) -> int:
    """The bytes of payload, key and headers, which is what a limit is compared with."""
    headers = sum(len(name.encode()) + len(value) for name, value in to_wire(message).items())
    return len(message.payload) + len((message.key or "").encode()) + headers
