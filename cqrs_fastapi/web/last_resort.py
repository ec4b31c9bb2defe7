"""What nobody caught: told to the log with its traceback, and to the client with nothing but a correlation id."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.web.error_handlers import DENIAL, close_code, serves_unexpected
from cqrs_fastapi.web.failures import log, log_failure
from cqrs_fastapi.web.problems import Problem, problem_response
from cqrs_fastapi.web.request_context import correlation_id_of
from cqrs_fastapi.web.translation import Translation

Handlers = Mapping[Any, ExceptionHandler]
"""An app's own table of exception handlers, which may still grow."""


class _Progress:
    """How far an answer has come, seen from the messages that went out."""

    __slots__ = ("_send", "ended", "started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.ended = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            self.started = True
        elif kind == "websocket.close" or (kind == "http.response.body" and not message.get("more_body", False)):
            self.ended = True
        await self._send(message)


class LastResortMiddleware:
    """Answers unexpected errors opaquely and logs each once. It lies inside of Starlette's own error middleware.

    Raised on to the server are only: errors of a response that is under way (the server must cut the connection, or the
    client would take the half for the whole), errors of configuration (a test client then shows their sentence), and
    everything where the application has a handler of its own for `Exception` or 500.
    """

    def __init__(self, app: ASGIApp, *, translation: Translation, handlers: Handlers) -> None:
        self.app, self._translation, self._handlers = app, translation, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        progress = _Progress(send)
        try:
            await self.app(scope, receive, progress.send)
        except ClientDisconnect:
            log.info("client_left", path=scope["path"], correlation_id=correlation_id_of(scope))
        except Exception as error:
            if _has_other(self._handlers):
                raise
            await self._answer(error, scope, receive, progress)

    async def _answer(self, error: Exception, scope: Scope, receive: Receive, progress: _Progress) -> None:
        problem = self._translation.problem(error, correlation_id_of(scope))
        raised_on = isinstance(error, ConfigurationError)
        if not raised_on:
            log_failure(scope, error, code=problem.code)
        if scope["type"] == "websocket":
            await _refuse_websocket(problem, scope, receive, progress)
        elif not progress.started:
            await problem_response(problem, self._translation.headers(error))(scope, receive, progress.send)
        elif not progress.ended:
            raised_on = True
        if raised_on:
            raise error


async def _refuse_websocket(problem: Problem, scope: Scope, receive: Receive, progress: _Progress) -> None:
    if progress.ended:
        return
    if not progress.started and DENIAL in scope.get("extensions", {}):
        await problem_response(problem)(scope, receive, progress.send)
    else:
        close = {"type": "websocket.close", "code": close_code(problem.status), "reason": problem.code[:123]}
        await progress.send(close)


def _has_other(handlers: Handlers) -> bool:
    return HTTPStatus.INTERNAL_SERVER_ERROR in handlers or not serves_unexpected(handlers.get(Exception))
