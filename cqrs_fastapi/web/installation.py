"""Joins an application to a FastAPI app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from cqrs_fastapi.clock import SystemClock
from cqrs_fastapi.errors import ConfigurationError, DomainError
from cqrs_fastapi.identity import Uuid7Factory
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.web.body_limit import BodyLimitMiddleware
from cqrs_fastapi.web.dependencies import INSTALLED, SERVING, Mediators
from cqrs_fastapi.web.error_handlers import ErrorHandlers
from cqrs_fastapi.web.health import LIVE, READY, Checkable, ReadinessProbe, live
from cqrs_fastapi.web.json_text import JsonTextMiddleware
from cqrs_fastapi.web.last_resort import LastResortMiddleware
from cqrs_fastapi.web.lifespan import LifespanMiddleware, Runnable
from cqrs_fastapi.web.openapi import declare_problems
from cqrs_fastapi.web.request_context import Identity, RequestContextMiddleware
from cqrs_fastapi.web.translation import Translation


class Installable(Runnable, Mediators, Checkable, Protocol):
    """What the web face needs of an application."""

    @property
    def settings(self) -> Settings: ...


class ServingMiddleware:
    """Lets applications that are mounted below find the one of their host."""

    def __init__(self, app: ASGIApp, *, installed: Mediators) -> None:
        self.app, self._installed = app, installed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[SERVING] = self._installed
        await self.app(scope, receive, send)


def install(
    app: FastAPI,
    application: Installable,
    *,
    identify: Identity | None,
    statuses: Mapping[type[DomainError], int] | None,
) -> None:
    _refuse_unless_new(app)
    translation = Translation(statuses)
    setattr(app.state, INSTALLED, application)
    ErrorHandlers(translation).register(app)
    declare_problems(app)
    app.add_route(LIVE, live, include_in_schema=False)
    app.add_route(READY, ReadinessProbe(application).ready, include_in_schema=False)
    # Each one added surrounds those before it, so the innermost comes first.
    app.add_middleware(JsonTextMiddleware)
    app.add_middleware(BodyLimitMiddleware, limit=lambda: application.settings.max_body_bytes)
    app.add_middleware(LastResortMiddleware, translation=translation, handlers=app.exception_handlers)
    app.add_middleware(RequestContextMiddleware, ids=Uuid7Factory(), clock=SystemClock(), identify=identify)
    app.add_middleware(ServingMiddleware, installed=application)
    app.add_middleware(LifespanMiddleware, runs=application)


def _refuse_unless_new(app: FastAPI) -> None:
    if hasattr(app.state, INSTALLED):
        raise ConfigurationError(
            f"app.state.{INSTALLED} is taken: cqrs.install(app) was called twice on the app {app.title!r}, "
            "or something else of that name is kept there; install once, and name your own state differently"
        )
    if app.middleware_stack is not None:
        raise ConfigurationError(
            f"the app {app.title!r} has started already; call cqrs.install(app) where the app is made, before it serves"
        )
