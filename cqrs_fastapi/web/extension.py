"""The extension that applications hold: handlers, workers and stores behind one FastAPI app."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI

from cqrs_fastapi.errors import DomainError
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.web.installation import install
from cqrs_fastapi.web.request_context import Identity


class CQRS(Application):
    """An application with a web face."""

    def install(
        self,
        app: FastAPI,
        *,
        identify: Identity | None = None,
        statuses: Mapping[type[DomainError], int] | None = None,
    ) -> None:
        """The one way in. Call it once, where the app is made; the order of routes does not matter.

        Adds problem details for every error, a limit for bodies, the context of a request, `/health/live` and
        `/health/ready`. The mediator is open before the app's own lifespan is entered; workers start after every
        lifespan has been entered, and drain before any leaves. Middleware that is added later surrounds this one.

        `identify` says for whom a request is made; without it messages have neither user nor tenant. `statuses` gives
        the app's own refusals a status of 400 to 499; the nearest class decides, and 422 is for the rest.

        Raises ConfigurationError when the app has one already or has started.
        """
        install(app, self, identify=identify, statuses=statuses)
