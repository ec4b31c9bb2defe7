"""What an application says about its own fitness to serve."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cqrs_fastapi.errors import CqrsError, SchemaBehindError
from cqrs_fastapi.runtime.supervisor import WorkerState

log = structlog.get_logger("cqrs_fastapi")

_AFTER_CANCEL = 1.0
_CHECK_SECONDS = 1.5  # less than a probe waits, so that its answer names the check that hangs


class NotReadyError(CqrsError):
    """Something that must be there is missing; what it says is shown to whoever asks for readiness."""

    code = "not_ready"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must work. `detail` is shown to whoever asks: no address, no credential, no driver's text."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` means that requests sent now can be served; it is False before the start and from the drain on."""

    ready: bool
    checks: tuple[Check, ...]


@dataclass(slots=True)
class Probe:
    """Asks one thing whether it works, and what it has to say.

    A driver may need seconds to give up a connection that hangs, so its run is waited for only so long, and whoever
    asks again meanwhile waits for the same run.
    """

    name: str
    ping: Callable[[], Coroutine[Any, Any, str | None]]
    only_informs: bool = False
    """Requests can be served whatever it answers, so it is always ok."""
    _running: asyncio.Task[str | None] | None = None

    async def ask(self, seconds: float) -> Check:
        """Never raises, and answers within so many seconds."""
        if self._running is None or self._running.done():
            context = contextvars.Context()
            self._running = asyncio.create_task(self.ping(), name=f"cqrs:check:{self.name}", context=context)
        running = self._running
        await asyncio.wait({running}, timeout=seconds)
        if not running.done():
            return Check(self.name, ok=self.only_informs, detail="does not answer in time")
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        if error is None:
            return Check(self.name, ok=True, detail=running.result() or "answers")
        if isinstance(error, SchemaBehindError | NotReadyError):
            return Check(self.name, ok=False, detail=str(error))
        if not isinstance(error, CqrsError):
            log.warning("check_failed", check=self.name, error=repr(error))
        return Check(self.name, ok=self.only_informs, detail="does not answer")

    async def close(self) -> None:
        """Leave no run behind, so that what it asks can be closed."""
        running, self._running = self._running, None
        if running is not None and not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=_AFTER_CANCEL)


async def readiness_of(probes: Sequence[Probe], states: Sequence[WorkerState], *, draining: bool) -> Readiness:
    """All of them and the workers, asked at once."""
    found = await asyncio.gather(*(probe.ask(_CHECK_SECONDS) for probe in probes))
    workers = [Check(state.name, state.status == "running", state.status) for state in states]
    checks = (*found, *workers)
    return Readiness(ready=not draining and all(check.ok for check in checks), checks=checks)
