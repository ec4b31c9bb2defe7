"""Keeps workers running: a failed one is run again, and all of them are stopped within a bounded time."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import structlog

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.runtime.worker import Worker

log = structlog.get_logger("cqrs_fastapi")

WorkerStatus = Literal["running", "restarting", "stopped"]

_AFTER_CANCEL = 1.0  # seconds for a cancelled worker's clean-up; one that ignores its cancellation is left behind


class WorkerEndedError(CqrsError):
    """A worker returned though nobody had told it to stop."""

    code = "worker_ended"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What readiness says about one worker. `error` is its last failure, and None once it has been well for a while."""

    name: str
    status: WorkerStatus
    error: str | None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between restarts, in seconds: doubling from `first` to `longest`, each shortened by up to a half."""

    first: float = 0.2
    longest: float = 30.0
    jitter: Callable[[], float] = random.random

    def pause(self, failures: int) -> float:
        """The pause after so many failures in a row; 1 is the first."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (1 - self.jitter() / 2)


@dataclass(slots=True)
class _Supervised:
    """One worker's history."""

    worker: Worker
    status: WorkerStatus = "running"
    failures: int = 0
    error: str | None = None
    repeats: int = 0
    began: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Runs each worker as a task in an empty context, so that nothing of the starter's request or span leaks in.

    A worker that has been well for `well_after` seconds is forgiven its failures: its next pause is short again.
    """

    workers: Sequence[Worker]
    backoff: Backoff = field(default_factory=Backoff)
    well_after: float = 5.0
    _stop: asyncio.Event | None = None
    _tasks: dict[asyncio.Task[None], _Supervised] = field(default_factory=dict)

    async def start(self) -> None:
        """Starts all workers and returns at once. RuntimeError if they run already."""
        if self._tasks:
            raise RuntimeError("the workers run already; stop them first")
        self._stop = stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for worker in self.workers:
            supervised = _Supervised(worker, began=loop.time())
            name, context = f"cqrs:{worker.name}", contextvars.Context()
            self._tasks[loop.create_task(self._keep(supervised, stop), name=name, context=context)] = supervised

    async def stop(self, timeout: timedelta) -> None:  # noqa: ASYNC109  # what is late is cancelled and named, not raised
        """Lets the workers finish what they hold, for at most `timeout`; then they are cancelled.

        Returns at most a second after that, and never raises because of a worker. Stopping twice is harmless.
        """
        if self._stop is not None:
            self._stop.set()
        pending = set(self._tasks)
        try:
            if pending:
                _, pending = await asyncio.wait(pending, timeout=timeout.total_seconds())
        finally:
            late = [task for task in pending if task.cancel()]
        for task in late:
            log.error("worker_did_not_stop", worker=self._tasks[task].worker.name, seconds=timeout.total_seconds())
        if late:
            await asyncio.wait(late, timeout=_AFTER_CANCEL)
        self._tasks = {task: supervised for task, supervised in self._tasks.items() if not task.done()}

    def states(self) -> tuple[WorkerState, ...]:
        """One for each worker that was started and not yet stopped, in the order they were given."""
        return tuple(self._state(task, supervised) for task, supervised in self._tasks.items())

    def _state(self, task: asyncio.Task[None], supervised: _Supervised) -> WorkerState:
        name = supervised.worker.name
        if task.done():
            return WorkerState(name, "stopped", supervised.error)
        # A worker that was just run again is not well yet: readiness would blink with each restart.
        if supervised.status == "running" and not self._is_well(supervised):
            return WorkerState(name, "restarting" if supervised.failures else "running", supervised.error)
        return WorkerState(name, supervised.status, supervised.error if supervised.status == "restarting" else None)

    def _is_well(self, supervised: _Supervised) -> bool:
        return asyncio.get_running_loop().time() - supervised.began >= self.well_after

    async def _keep(self, supervised: _Supervised, stop: asyncio.Event) -> None:
        while True:
            supervised.began, supervised.status = asyncio.get_running_loop().time(), "running"
            error = await self._run_once(supervised.worker, stop)
            if error is None:
                return
            self._note(supervised, error)
            if await _is_set_within(stop, self.backoff.pause(supervised.failures)):
                return

    async def _run_once(self, worker: Worker, stop: asyncio.Event) -> BaseException | None:
        """What it failed with; None if it ended because it was told to."""
        try:
            await worker.run(stop)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return error  # a cancellation that nobody asked of this task is a failure like any other
        except Exception as error:  # noqa: BLE001  # whatever a worker raises is its failure
            return error
        return None if stop.is_set() else WorkerEndedError(f"the worker {worker.name!r} ended before it was stopped")

    def _note(self, supervised: _Supervised, error: BaseException) -> None:
        """Counts the failure, and logs it unless it repeats the last one."""
        if self._is_well(supervised):
            supervised.failures, supervised.error, supervised.repeats = 0, None, 0
        supervised.failures, supervised.status = supervised.failures + 1, "restarting"
        described = f"{type(error).__name__}: {error}"
        if described == supervised.error:
            supervised.repeats += 1
            return
        name, repeats = supervised.worker.name, supervised.repeats
        supervised.error, supervised.repeats = described, 0
        log.error("worker_failed", worker=name, error=described, earlier_repeats=repeats, exc_info=error)


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await stop.wait()
    except TimeoutError:
        return False
