"""What the errors of a Kafka producer mean for a message."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from aiokafka import errors

from cqrs_fastapi.brokers.broker import Delivery, Outcome

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")

_REFUSALS = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.RecordTooLargeError,
    errors.InvalidTopicError,
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.UnsupportedVersionError,
    errors.UnsupportedForMessageFormatError,
    errors.UnsupportedCodecError,
    errors.InvalidTimestampError,
    errors.PolicyViolationError,
)
"""Sending the same bytes again cannot help. Everything that is not listed is held: a wrong guess then only waits."""


@contextmanager
def no_silent_cancellation() -> Iterator[None]:
    """Aiokafka cancels its own futures when a connection ends, and who awaits one would look cancelled, though nobody
    has cancelled it. Here that is an error of the connection; a cancellation of the running task passes.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise errors.KafkaConnectionError("the client gave up what was under way") from error


def outcome_of(error: BaseException) -> Outcome:
    delivery = Delivery.REFUSED if isinstance(error, _REFUSALS) else Delivery.HELD
    return Outcome(delivery, describe(error))


def describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


@lru_cache(maxsize=1024)
def is_topic(name: str) -> bool:
    """What a broker accepts, checked here since it would be asked again and again for a name it cannot have."""
    return _TOPIC.fullmatch(name) is not None and name not in {".", ".."}
