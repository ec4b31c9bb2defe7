"""The two questions of an orchestrator: is the process alive, and may it be sent requests."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cqrs_fastapi.runtime.health import Check, Readiness

LIVE: Final = "/health/live"
READY: Final = "/health/ready"
ANSWER_WITHIN: Final = 2.0
"""Seconds for all checks together, whatever they wait for."""
_NEVER_STORED: Final = {"Cache-Control": "no-store"}

log = structlog.get_logger("cqrs_fastapi.web")


class Checkable(Protocol):
    async def readiness(self) -> Readiness: ...


async def live(_request: Request) -> Response:
    """200 for as long as the process can answer at all."""
    return JSONResponse({"status": "live"}, headers=_NEVER_STORED)


class ReadinessProbe:
    """200 or 503 with every check. Never raises, and answers within `seconds` even if a check ignores cancellation."""

    def __init__(self, checked: Checkable, *, seconds: float = ANSWER_WITHIN) -> None:
        self._checked, self._seconds = checked, seconds
        self._running: asyncio.Task[Readiness] | None = None

    async def ready(self, _request: Request) -> Response:
        readiness = await self._ask()
        body = {
            "status": "ready" if readiness.ready else "not_ready",
            "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in readiness.checks],
        }
        return JSONResponse(body, status_code=200 if readiness.ready else 503, headers=_NEVER_STORED)

    async def _ask(self) -> Readiness:
        # Probes share one run of the checks: however many ask while a database hangs, one task hangs with it.
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._checked.readiness(), name="cqrs-readiness")
        running = self._running
        await asyncio.wait((running,), timeout=self._seconds)
        if not running.done():
            running.cancel()
            running.add_done_callback(_read_late)
            return _unknown(f"no answer within {self._seconds:g} seconds")
        if running.cancelled():
            return _unknown("the checks were cancelled")
        error = running.exception()
        if error is None:
            return running.result()
        log.warning("readiness_failed", error=repr(error))
        return _unknown("the checks themselves failed")


def _unknown(detail: str) -> Readiness:
    return Readiness(ready=False, checks=(Check(name="readiness", ok=False, detail=detail),))


def _read_late(task: asyncio.Task[Readiness]) -> None:
    """A result nobody waits for any more; asyncio complains about errors that nobody looks at."""
    if not task.cancelled() and task.exception() is not None:
        log.warning("readiness_failed", error=repr(task.exception()))
