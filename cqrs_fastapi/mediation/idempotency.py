"""Commands that happen once: sent again with the same idempotency key, they are answered as the first time."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Protocol

from cqrs_fastapi.errors import HandlerNotFoundError, IdempotencyKeyReusedError, UnknownOutcomeError
from cqrs_fastapi.mediation.answer_codec import codec_of_answers
from cqrs_fastapi.mediation.behaviors import Next
from cqrs_fastapi.mediation.frame import Frame
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.json_codec import JsonCodec, codec_for
from cqrs_fastapi.messages.metadata import Metadata, enter, holder, leave

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.pipelines import Body, Handling, Pipelines

_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
_PAUSES: Final = (0.05, 0.5, 2.0)
"""Seconds before each further attempt of a command whose outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sending of a command with a key, for a tenant and a user. The fingerprint tells what was asked."""

    tenant: str
    user: str
    key: str
    command: str
    fingerprint: str
    ordinal: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an earlier attempt was answered; `response` is JSON."""

    fingerprint: str
    response: str


class Records(Protocol):
    """Where the answers of commands with a key are kept."""

    async def find(self, attempt: Attempt, /) -> Recorded | None: ...


async def send_once(pipelines: Pipelines, request: object, key: str) -> object:
    """See `RequestMediator.send`. Behaviors surround an answer that is given again as they do the first."""
    handling = pipelines.nested.get(type(request))
    if handling is None:
        raise HandlerNotFoundError(type(request))
    if handling.kind != "command":
        raise TypeError(f"{type(request).__name__} is no command: what changes nothing needs no idempotency key")
    if not _KEY.fullmatch(key):
        raise ValueError("an idempotency key is 1 to 200 visible ASCII characters without spaces")
    frame = Frame(pipelines.kernel, holder())
    token = enter(frame)
    try:
        attempt = _attempt(request, key, frame.metadata)
        return await handling.wrapped(_Once(pipelines, handling, attempt))(request)
    finally:
        leave(token)


@dataclass(frozen=True, slots=True)
class _Once:
    pipelines: Pipelines
    handling: Handling
    attempt: Attempt

    async def __call__(self, message: object) -> object:
        for pause in (*_PAUSES, None):
            answer = await self._recorded()
            if answer is not None:
                return answer.value
            try:
                return await self._core()(message)
            except UnknownOutcomeError:
                # The next attempt writes the same record, so that it collides with this one if that was committed.
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            except Exception:
                # Another attempt may have been committed since the look-up, and failed this one: its answer counts.
                answer = await self._recorded()
                if answer is None:
                    raise
                return answer.value
        raise AssertionError  # the last round returns or raises

    def _core(self) -> Next:
        return self.handling.with_fallback([partial(self._run, body) for body in self.handling.bodies])

    async def _run(self, body: Body, message: object) -> object:
        return await self.pipelines.kernel.run(partial(self._handle, body), message, read_only=False)

    async def _handle(self, body: Body, scope: Scope, message: object) -> object:
        result = await body(scope, message)
        scope.unit_of_work.remember(self.attempt, codec_of_answers(self.handling.message_type).encode(result))
        return result

    async def _recorded(self) -> _Answer | None:
        found = await self.pipelines.records.find(self.attempt)
        if found is None:
            return None
        if found.fingerprint != self.attempt.fingerprint:
            raise IdempotencyKeyReusedError(self.attempt.command, self.attempt.key)
        return _Answer(codec_of_answers(self.handling.message_type).decode(found.response))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Wrapped, since an answer may be None."""

    value: object


def _attempt(request: object, key: str, metadata: Metadata) -> Attempt:
    kind: type = type(request)
    fingerprint = hashlib.sha256(_codec_of(kind).encode(request)).hexdigest()
    return Attempt(metadata.tenant or "", metadata.user or "", key, kind.__name__, fingerprint)


@lru_cache(maxsize=1024)
def _codec_of(request_type: type) -> JsonCodec:
    return codec_for(request_type)
