"""Runs an application around the lifespan of the web application that it is installed in."""

from __future__ import annotations

import gc
from typing import Protocol

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.web.failures import log, rendered


class Runnable(Protocol):
    """What can be opened, worked and closed. `close` may be called twice."""

    async def open(self) -> None: ...
    async def start_workers(self) -> None: ...
    async def stop_workers(self) -> None: ...
    async def close(self) -> None: ...


class LifespanMiddleware:
    """Handles the server's lifespan messages on their way in and out:

    1. startup comes in: open, then pass it on, so that every lifespan of the app finds a mediator that works;
    2. startup.complete goes out: start the workers first, since every lifespan has been entered;
    3. shutdown comes in: drain the workers first, while every lifespan is still entered;
    4. shutdown.complete goes out: close first.

    What fails before the start is complete is told to the server in one sentence, everything opened so far is closed,
    and the error is raised, as Starlette does. A cancelled lifespan is drained and closed in the same order.
    """

    def __init__(self, app: ASGIApp, *, runs: Runnable) -> None:
        self.app, self._runs = app, runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
        else:
            await _Run(self.app, self._runs, receive, send).run(scope)


class _Run:
    """One run of the lifespan; a test may start the same app many times."""

    def __init__(self, app: ASGIApp, runs: Runnable, receive: Receive, send: Send) -> None:
        self._app, self._runs, self._receive, self._send = app, runs, receive, send
        self._first: Message | None = None
        self._asked = self._started = self._working = self._answered = False
        self._failure: Exception | None = None

    async def run(self, scope: Scope) -> None:
        self._first = await self._receive()
        try:
            await self._runs.open()
        except Exception as error:
            await self._give_up(error)
            raise
        except BaseException:
            await self._close()
            raise
        try:
            await self._run_inner(scope)
        finally:
            await self._drain()
            await self._close()
        if self._failure is not None:
            raise self._failure

    async def _run_inner(self, scope: Scope) -> None:
        try:
            await self._app(scope, self.receive, self.send)
        except Exception as error:
            if self._asked or self._answered:
                if not self._answered:
                    await self._fail(error)
                raise
        if not self._asked:
            # The inner application has no lifespan, which it may say by an error or by returning at once.
            await self.send({"type": "lifespan.startup.complete"})
            await self.receive_shutdown()
            await self.send({"type": "lifespan.shutdown.complete"})

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            assert self._first is not None  # noqa: S101  # for the checker: set before the application is entered
            return self._first
        return await self.receive_shutdown()

    async def receive_shutdown(self) -> Message:
        try:
            return await self._receive()
        finally:
            # Also where the server cancels instead of asking: the lifespans leave only after this.
            await self._drain()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            await self._start_workers()
            self._started = True
            # What the start has made stays. Left among what requests make, it is gone through again and again: every
            # thousand requests or so answers then wait some 0.05 to 0.1 s.
            gc.freeze()
        else:
            self._answered = True
            await self._close()
            if self._failure is not None:
                message = {"type": kind.replace("complete", "failed"), "message": _told(self._failure)}
        await self._send(message)

    async def _start_workers(self) -> None:
        """Those that did start are drained; the error then goes through the app's lifespan to startup.failed."""
        self._working = True
        try:
            await self._runs.start_workers()
        except Exception as error:
            self._failure = error
            await self._drain()
            raise

    async def _drain(self) -> None:
        if not self._working:
            return
        self._working = False
        with anyio.CancelScope(shield=True):
            try:
                await self._runs.stop_workers()
            except Exception as error:  # noqa: BLE001  # kept for the answer: the lifespans must still leave in order
                self._failure = self._failure or error

    async def _close(self) -> None:
        gc.unfreeze()
        with anyio.CancelScope(shield=True):
            try:
                await self._runs.close()
            except Exception as error:  # noqa: BLE001  # kept for the answer to the server
                self._failure = self._failure or error

    async def _give_up(self, error: Exception) -> None:
        await self._close()
        await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        self._answered = True
        kind = "lifespan.shutdown.failed" if self._started else "lifespan.startup.failed"
        await self._send({"type": kind, "message": _told(error)})


def _told(error: Exception) -> str:
    """What the server prints. An error of configuration is a sentence already; any other needs its traceback too."""
    if isinstance(error, ConfigurationError):
        return str(error)
    log.error("lifespan_failed", exception=rendered(error))
    return f"{type(error).__name__}: {error}"
