"""Workers as processes of their own, beside an application that does not run them (`CQRS_RUN_IN_APP=`)."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cqrs_fastapi.cli.health_server import serving_health
from cqrs_fastapi.cli.signals import stop_by_signal
from cqrs_fastapi.cli.target import Target, load
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.outbox.relay import Only
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.settings import WorkerName

Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Serve /health and /health/live on this port.", show_default=False)
]
Host = Annotated[str, typer.Option(help="The address to serve on; 0.0.0.0 where probes come from outside.")]

Once = Annotated[bool, typer.Option("--once", help="Send what is due, then end.")]
Topics = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Send what goes to these topics, and leave the rest.", show_default=False),
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, help="Messages at once; CQRS_RELAY_BATCH if left out.", show_default=False),
]

_IN_PROCESS = {
    "relay": "a relay on memory:// in its own process would send to nobody",
    "consumer": "a consumer on memory:// in its own process would receive nothing",
}


def relay(  # noqa: PLR0917  # typer makes options of parameters
    target: Target,
    port: Port = None,
    host: Host = "127.0.0.1",
    once: Once = False,
    topics: Topics = None,
    batch: Batch = None,
) -> None:
    """Send what waits in the outbox, until SIGTERM. Several may run at once: each has a share of the keys.

    With --once, status 0 if all that was due is sent, and 1 if something could not be.
    """
    application = load(target)
    wanted = None if topics is None else tuple(topic.strip() for topic in topics.split(",") if topic.strip())
    only = Only(wanted, batch)
    if once:
        raise typer.Exit(0 if asyncio.run(_send_once(application, only)) else 1)
    asyncio.run(run_worker(application, "relay", host, port, only=only))


async def _send_once(application: Application, only: Only) -> bool:
    _refuse_lonely(application, "relay")
    async with application.running(workers=()):
        await application.engine.topic_creator().create()
        return await application.engine.relay(only).run_once()


def consume(target: Target, port: Port = None, host: Host = "127.0.0.1") -> None:
    """Give received events to the durable handlers and projections, until SIGTERM. Several may run at once."""
    asyncio.run(run_worker(load(target), "consumer", host, port))


def schedule(target: Target, port: Port = None, host: Host = "127.0.0.1") -> None:
    """Run the periodic jobs, until SIGTERM. Several may run at once: each tick has its effect once."""
    asyncio.run(run_worker(load(target), "scheduler", host, port))


async def run_worker(
    application: Application, worker: WorkerName, host: str, port: int | None, *, only: Only | None = None
) -> None:
    """Run one worker until a signal comes; then it may finish what it holds, for at most `drain_timeout`.

    ConfigurationError before anything has run. Readiness is served until the worker has stopped. A relay sends
    `only` that.
    """
    _refuse_lonely(application, worker)
    with stop_by_signal() as stop:
        await application.open()
        try:
            async with serving_health(application, host, port):
                await application.start_workers((worker,), only=only)
                try:
                    await stop.wait()
                finally:
                    await application.stop_workers()
        finally:
            await application.close()


def _refuse_lonely(application: Application, worker: WorkerName) -> None:
    if worker in _IN_PROCESS and application.broker.in_process:
        raise ConfigurationError(
            f"{_IN_PROCESS[worker]}: let the application run it (CQRS_RUN_IN_APP), or set CQRS_BROKER_URL to a broker "
            "that both can reach, for instance kafka://host:9092"
        )
