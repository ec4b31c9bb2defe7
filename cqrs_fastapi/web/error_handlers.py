"""Answers the errors that reach FastAPI's exception handling with problems."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.utils import is_body_allowed_for_status_code
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler
from starlette.websockets import WebSocket, WebSocketState

from cqrs_fastapi.errors import CqrsError, UnavailableError
from cqrs_fastapi.web.failures import log_failure, log_unavailable
from cqrs_fastapi.web.problems import Problem, problem_response
from cqrs_fastapi.web.request_context import correlation_id_of
from cqrs_fastapi.web.translation import Translation, http_problem, internal_problem, validation_problem

DENIAL = "websocket.http.response"
"""The server's extension for answering a WebSocket's handshake with a response."""
_POLICY_VIOLATION = 1008
_INTERNAL_ERROR = 1011
_FIRST_SERVER_ERROR = 500


class ErrorHandlers:
    """One handler per kind of error. A handler that the application registered itself is left in place."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation

    def register(self, app: FastAPI) -> None:
        handlers = cast("dict[Any, ExceptionHandler]", app.exception_handlers)
        _place(handlers, HTTPException, self.http, instead_of=http_exception_handler)
        _place(handlers, RequestValidationError, self.validation, instead_of=request_validation_exception_handler)
        _place(
            handlers,
            WebSocketRequestValidationError,
            self.websocket_validation,
            instead_of=websocket_request_validation_exception_handler,
        )
        _place(handlers, CqrsError, self.ours)
        _place(handlers, TimeoutError, self.ours)
        if HTTPStatus.INTERNAL_SERVER_ERROR not in handlers:
            _place(handlers, Exception, self.unexpected)

    async def ours(self, connection: Request | WebSocket, error: Exception) -> Response | None:
        scope = connection.scope
        if self._translation.answer_to(error) is None:
            # Nobody meant this error for a client: the last resort logs it and answers opaquely.
            raise error
        problem = self._translation.problem(error, correlation_id_of(scope))
        if isinstance(error, UnavailableError):
            log_unavailable(scope, error, code=problem.code)
        elif problem.status >= _FIRST_SERVER_ERROR:
            log_failure(scope, error, code=problem.code)
        return await _answer(connection, problem, self._translation.headers(error))

    async def http(self, connection: Request | WebSocket, error: HTTPException) -> Response | None:
        if not is_body_allowed_for_status_code(error.status_code):
            return Response(status_code=error.status_code, headers=error.headers)
        problem = http_problem(error, correlation_id_of(connection.scope))
        return await _answer(connection, problem, dict(error.headers or {}))

    async def validation(self, request: Request, error: RequestValidationError) -> Response:
        return problem_response(validation_problem(error, correlation_id_of(request.scope)))

    async def websocket_validation(self, websocket: WebSocket, _error: WebSocketRequestValidationError) -> None:
        """FastAPI would send the wrong values back as the reason, and a reason has room for 123 bytes."""
        await websocket.close(code=_POLICY_VIOLATION, reason="validation")

    async def unexpected(self, request: Request, _error: Exception) -> Response:
        """For what fails outside of the extension's own middleware; Starlette raises it again to the server."""
        return problem_response(internal_problem(correlation_id_of(request.scope)))


def _place(handlers: dict[Any, ExceptionHandler], kind: type, handler: object, instead_of: object = None) -> None:
    if handlers.get(kind) is instead_of:
        handlers[kind] = cast("ExceptionHandler", handler)


def serves_unexpected(handler: object) -> bool:
    """Whether `handler` is ours, so that the application has none of its own for unexpected errors."""
    return getattr(handler, "__func__", None) is ErrorHandlers.unexpected


async def _answer(connection: Request | WebSocket, problem: Problem, headers: dict[str, str]) -> Response | None:
    if isinstance(connection, Request):
        return problem_response(problem, headers)
    state = connection.application_state
    if state is WebSocketState.CONNECTING and DENIAL in connection.scope.get("extensions", {}):
        await connection.send_denial_response(problem_response(problem, headers))
    elif WebSocketState.DISCONNECTED not in (state, connection.client_state):
        await connection.close(code=close_code(problem.status), reason=problem.code[:123])
    return None


def close_code(status: int) -> int:
    """How a WebSocket is closed where a response would have had this status."""
    return _INTERNAL_ERROR if status >= _FIRST_SERVER_ERROR else _POLICY_VIOLATION
