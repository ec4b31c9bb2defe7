"""The container's resources, and steps of closing that are all tried."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

log = structlog.get_logger("cqrs_fastapi")


async def start_resources(container: Any) -> None:
    starting = container.init_resources()
    if inspect.isawaitable(starting):
        await starting


async def stop_resources(container: Any) -> None:
    stopping = container.shutdown_resources()
    if inspect.isawaitable(stopping):
        await stopping


async def tried(step: Callable[[], Awaitable[None]]) -> None:
    """Whatever it raises is told, and the other steps are tried."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001  # see above
        log.error("close_failed", error=repr(error))
