"""What a handler is told of the transport of its message."""

from __future__ import annotations

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.inbox.stored import NO_PARTITION
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.received_message import ReceivedMessage


def received(message: IncomingMessage, attempt: int) -> ReceivedMessage:
    return ReceivedMessage(
        message.topic, message.partition, message.offset, message.key, message.headers, message.sent_at, attempt
    )


def handed_in(metadata: Metadata) -> ReceivedMessage:
    """Of an event that somebody else has received: nothing is known but its time."""
    return ReceivedMessage("", NO_PARTITION, -1, None, {}, metadata.time)
