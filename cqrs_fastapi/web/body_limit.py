"""Bodies that are too large are refused before they are parsed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cqrs_fastapi.web.problems import Problem, code_of, phrase, problem_response
from cqrs_fastapi.web.request_context import correlation_id_of

_STATUS = 413


class BodyTooLargeError(HTTPException):
    """An HTTPException, because FastAPI lets those alone pass through its parsing of a body."""

    def __init__(self, limit: int) -> None:
        super().__init__(_STATUS, detail=_sentence(limit))


class BodyLimitMiddleware:
    """Answers 413: at once where Content-Length says too much, else as soon as `limit()` bytes have been passed.

    At most the limit and one chunk of the server are handed on. The rest is left to the server, which throws it away;
    the connection serves further requests.
    """

    def __init__(self, app: ASGIApp, *, limit: Callable[[], int]) -> None:
        self.app, self._read_limit = app, limit

    @cached_property
    def _limit(self) -> int:
        """Read from the settings with the first request: making an app reads no environment."""
        return self._read_limit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif _declared(scope) > self._limit:
            await problem_response(self._problem(scope))(scope, receive, send)
        else:
            await self.app(scope, _counted(receive, self._limit), send)

    def _problem(self, scope: Scope) -> Problem:
        return Problem(
            title=phrase(_STATUS),
            status=_STATUS,
            detail=_sentence(self._limit),
            code=code_of(_STATUS),
            correlation_id=correlation_id_of(scope),
        )


def _counted(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLargeError(limit)
        return message

    return counted


def _declared(scope: Scope) -> int:
    """The largest Content-Length; what is no number is left to the counting. Twenty digits are more than 2**64."""
    declared = 0
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            declared = max(declared, int(value[:20]))
    return declared


def _sentence(limit: int) -> str:
    return f"The body is larger than the {limit} bytes that are accepted."
