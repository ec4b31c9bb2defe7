"""The mediators as FastAPI dependencies, for HTTP and WebSockets."""

from __future__ import annotations

from typing import Annotated, Final, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from cqrs_fastapi.errors import ConfigurationError, NotRunningError
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.request_mediator import RequestMediator

INSTALLED: Final = "cqrs"
"""The name in `app.state`."""
SERVING: Final = "cqrs_fastapi.serving"
"""The name in an ASGI scope, where applications that are mounted find the one of their host."""


class Mediators(Protocol):
    """What serves the mediators; it raises NotRunningError when it is not open."""

    @property
    def mediator(self) -> RequestMediator: ...
    @property
    def event_mediator(self) -> EventMediator: ...


async def mediator(connection: HTTPConnection) -> RequestMediator:
    """The mediator of the application that serves this connection; each `send` commits before it returns.

    Raises NotRunningError where no lifespan has run, ConfigurationError where nothing is installed.
    """
    installed = _installed(connection)
    try:
        return installed.mediator
    except NotRunningError:
        raise _not_running("mediator") from None


async def event_mediator(connection: HTTPConnection) -> EventMediator:
    """The event mediator of the application that serves this connection; raises what `mediator` raises."""
    installed = _installed(connection)
    try:
        return installed.event_mediator
    except NotRunningError:
        raise _not_running("event mediator") from None


MediatorDep = Annotated[RequestMediator, Depends(mediator)]
EventMediatorDep = Annotated[EventMediator, Depends(event_mediator)]


def _installed(connection: HTTPConnection) -> Mediators:
    """Of the nearest application: one that is mounted may have its own, else its host's serves it."""
    own: Mediators | None = getattr(connection.app.state, INSTALLED, None)
    installed = own or connection.scope.get(SERVING)
    if installed is None:
        raise ConfigurationError(
            "a route asked for the mediator, but its application has no CQRS; write: cqrs.install(app)"
        )
    return installed


def _not_running(what: str) -> NotRunningError:
    return NotRunningError(
        f"the {what} was asked for while the application was not running, because no lifespan was started; in a test "
        "write `with TestClient(app) as client:`, or around any other client `async with cqrs.running():`"
    )
