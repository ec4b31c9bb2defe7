"""From a reply to the answer of its request, or to the error that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.errors import CqrsError, MalformedMessageError, MessageError
from cqrs_fastapi.mediation.answer_codec import codec_of_answers
from cqrs_fastapi.messages.headers import REPLY_STATUS
from cqrs_fastapi.messages.json_codec import parse_json, require_json
from cqrs_fastapi.remote.errors import NoReplyError, RemoteFailedError, RemoteRefusedError, RemoteUnknownOutcomeError
from cqrs_fastapi.remote.wire import Status, metadata_of, payload_of

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """What a request was answered with, and the headers that its handler gave the reply."""

    value: R
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Replies(Generic[R]):
    """What several receivers have said, in the order it came. `complete`: as many as were asked for."""

    answers: tuple[Answer[R], ...]
    errors: tuple[CqrsError, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that a reply belongs to."""

    request_type: type
    topic: str
    message_id: UUID
    is_command: bool

    def unknown(self, reason: str) -> CqrsError:
        """The error for a request that has no reply, or none that can be read."""
        if self.is_command:
            return RemoteUnknownOutcomeError(self.topic, self.message_id, reason)
        return NoReplyError(self.topic, reason)


def answer_of(reply: IncomingMessage, asked: Asked, *, max_bytes: int) -> Answer[Any]:
    """Raises RemoteRefusedError, RemoteFailedError, and what `Asked.unknown` makes of a reply that cannot be read."""
    try:
        return _read(reply, asked, max_bytes)
    except MessageError as error:
        raise asked.unknown(f"its reply cannot be read: {error}") from None


def _read(reply: IncomingMessage, asked: Asked, max_bytes: int) -> Answer[Any]:
    payload = payload_of(reply, max_bytes=max_bytes)
    metadata, status = metadata_of(reply), _status(reply)
    require_json(payload)
    if status is not Status.SUCCESS:
        raise _error(status, payload, asked)
    try:
        value = codec_of_answers(asked.request_type).decode(payload)
    except ValueError:
        # The cause would print the input, which may be secret.
        raise MalformedMessageError(f"it is no answer to {asked.request_type.__name__}") from None
    return Answer(value, metadata.headers)


def _status(reply: IncomingMessage) -> Status:
    try:
        return Status(reply.headers[REPLY_STATUS].decode("ascii"))
    except (KeyError, ValueError):
        raise MalformedMessageError(f"its header {REPLY_STATUS!r} is missing or unknown") from None


def _error(status: Status, payload: bytes, asked: Asked) -> CqrsError:
    parts = parse_json(payload)
    if not isinstance(parts, dict):
        raise MalformedMessageError("it says neither a code nor a message")
    parts = cast("dict[str, object]", parts)
    code, text = str(parts.get("code", "")), str(parts.get("message", ""))
    if status is Status.REFUSAL:
        return RemoteRefusedError(asked.topic, code, text)
    if status is Status.FAILURE:
        return RemoteFailedError(asked.topic, code, text)
    return asked.unknown(text)
