"""How failures are written to the log: once, with the traceback, and a request's under its correlation id."""

from __future__ import annotations

import traceback

import structlog
from starlette.types import Scope

from cqrs_fastapi.web.request_context import correlation_id_of

log = structlog.get_logger("cqrs_fastapi.web")


def log_failure(scope: Scope, error: BaseException, *, code: str) -> None:
    log.error(
        "request_failed",
        code=code,
        error=type(error).__name__,
        method=scope.get("method"),
        path=scope["path"],
        correlation_id=correlation_id_of(scope),
        exception=rendered(error),
    )


def rendered(error: BaseException) -> str:
    """The traceback as text: structlog's own console would print the local variables of every frame."""
    return "".join(traceback.format_exception(error))


def log_unavailable(scope: Scope, error: BaseException, *, code: str) -> None:
    """Without a traceback: under overload there would be thousands of the same."""
    log.warning(
        "request_refused",
        code=code,
        error=str(error),
        method=scope.get("method"),
        path=scope["path"],
        correlation_id=correlation_id_of(scope),
    )
