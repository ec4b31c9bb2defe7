"""What is known of the transport of a message that is being handled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A durable handler may ask for it by its type.

    For an event of the own store `topic` is the stream, `key` the stream as bytes, `partition` -1 and `offset` the
    position. Where an event was handed in by hand, `topic` is empty and `offset` -1 as well. `headers` are as they
    came: nobody has checked what strangers wrote. `attempt` is 1 for the first.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Mapping[str, bytes]
    sent_at: datetime
    attempt: int = 1

    @staticmethod
    def current() -> ReceivedMessage:
        """That of the message being handled; a LookupError outside of one."""
        return _CURRENT.get()


_CURRENT: ContextVar[ReceivedMessage] = ContextVar("cqrs_received_message")


@contextmanager
def receiving(message: ReceivedMessage) -> Iterator[None]:
    """A block in which this is the message being handled."""
    token = _CURRENT.set(message)
    try:
        yield
    finally:
        _CURRENT.reset(token)
