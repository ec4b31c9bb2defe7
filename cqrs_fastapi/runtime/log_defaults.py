"""How logs look where the application has not said so."""

from __future__ import annotations

import structlog


def set_log_defaults() -> None:
    """Does nothing where structlog is configured. Its own default shows the values of variables with each traceback, if
    `rich` is installed: among them may be what is secret, and rendering them takes seconds, in which nothing else runs.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.dev.set_exc_info,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )
