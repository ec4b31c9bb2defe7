"""A message in front of one durable handler: what it is called, which key it belongs to, what letter it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.parked_keys import name_of
from cqrs_fastapi.dead_letters.parking import Letter, Reason
from cqrs_fastapi.inbox.envelope import Envelope, text_headers
from cqrs_fastapi.inbox.stored import NO_PARTITION
from cqrs_fastapi.inbox.verdicts import RefusedByValidatorError
from cqrs_fastapi.mediation.pipelines import Handling

AlsoWrite = Callable[[Connection], None]
"""More for the transaction in which a message is settled: the checkpoint of its reader, under the reader's lease."""


@dataclass(frozen=True, slots=True)
class Case:
    """`closed` holds keys that are closed for the handler: that of the message is among them if it was closed when
    somebody looked.
    """

    handling: Handling
    envelope: Envelope
    message: IncomingMessage
    also: AlsoWrite | None = None
    closed: set[bytes] = field(default_factory=set)

    @property
    def consumer(self) -> str:
        return self.handling.consumer

    @property
    def message_id(self) -> UUID:
        return self.envelope.metadata.message_id

    @property
    def key(self) -> bytes | None:
        """None where order does not matter, or where the message has no key."""
        return sequence_of(self.message) if self.handling.on_failure.ordered else None

    @property
    def is_behind(self) -> bool:
        return bool(self.closed) and self.key in self.closed

    def is_wanted(self) -> bool:
        """Whether the binding's filter lets it through. RefusedByValidatorError if its validator does not."""
        event = self.envelope.event
        if self.handling.where is not None and not self.handling.where(event):
            return False
        if self.handling.validate is not None:
            try:
                self.handling.validate(event)
            except Exception as error:
                said = "" if self.envelope.key_ids else f": {error}"
                raise RefusedByValidatorError(f"{type(error).__name__}{said}") from error
        return True

    def closes(self) -> None:
        """Its key is closed from here on."""
        if (key := self.key) is not None:
            self.closed.add(key)

    def opens(self) -> None:
        """Its key was found open."""
        if (key := self.key) is not None:
            self.closed.discard(key)


def sequence_of(message: IncomingMessage) -> bytes | None:
    """What orders it: its key. Streams of one name are told apart by their tenants; a topic's key is all that its
    partition knows.
    """
    if message.key is None or message.partition != NO_PARTITION:
        return message.key
    return stream_sequence(message.key.decode(), message.headers.get("tenant", b"").decode())


def stream_sequence(stream: str, tenant: str) -> bytes:
    """The same for an event of the own store."""
    return (f"{stream}@{tenant}" if tenant else stream).encode()


def name_of_key(key: bytes | None) -> str | None:
    return None if key is None else name_of(key)


def letter_of(
    message: IncomingMessage,
    consumer: str,
    reason: Reason,
    *,
    id: UUID,
    message_id: UUID | None,
    attempts: int,
    now: datetime,
) -> Letter:
    """The whole message, with why and when it was given up."""
    headers = text_headers(message)
    return Letter(
        id=id,
        consumer=consumer,
        message_id=message_id,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        headers=headers,
        payload=message.payload,
        code=reason.code,
        error=reason.error,
        traceback=reason.traceback,
        attempts=attempts,
        parked_at=now,
        tenant=headers.get("tenant", ""),
        sent_at=message.sent_at,
    )
