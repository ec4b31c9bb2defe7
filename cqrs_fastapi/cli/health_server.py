"""Answers the probes of an orchestrator beside a worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.web.health import LIVE, READY, Checkable, ReadinessProbe, live


@asynccontextmanager
async def serving_health(checked: Checkable, host: str, port: int | None) -> AsyncIterator[None]:
    """Serve `/health`, `/health/ready` and `/health/live` within the block; nothing if there is no port.

    ConfigurationError if the port cannot be had.
    """
    if port is None:
        yield
        return
    probe = ReadinessProbe(checked)
    app = Starlette(routes=[Route(LIVE, live), Route(READY, probe.ready), Route("/health", probe.ready)])
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    with _listening(host, port) as listener:
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="cqrs:health")
        try:
            yield
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """One that leaves the signals to the worker beside it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"the health server cannot listen on {host} port {port}: {error.strerror}; write another --port"
        ) from error
    with listener:
        yield listener
