"""Runs units of work: the application's own tasks, their limit, their deadline and their retries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import ConcurrencyError, OverloadedError
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.mediation.contention import Contention
from cqrs_fastapi.mediation.deadline import Deadlines, forget, take_over
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.scope import Scope, UnitOfWorkPort
from cqrs_fastapi.mediation.stream_queue import StreamQueues

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.pipelines import Pipelines

T = TypeVar("T")
Body = Callable[[Scope, Any], Awaitable[T]]
Put = Callable[[object], Awaitable[None]]
Guard = Callable[[Scope], Awaitable[None]]
"""Runs first in the transaction of a unit of work, for instance to claim the message; an error rolls back."""

Begin = Callable[[Scope], UnitOfWorkPort]

log = structlog.get_logger("cqrs_fastapi")


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """`timeout` in seconds, up to the commit, with all repetitions; `retries` of a decision that conflicts though
    nobody has written in between; `at_once` in this process.
    """

    timeout: float
    retries: int
    at_once: int


@dataclass(slots=True)
class Kernel:
    """What every pipeline shares."""

    ids: IdFactory
    clock: Clock
    begin: Begin
    limits: UnitLimits
    pipelines: Pipelines
    random: random.Random = field(default_factory=random.SystemRandom)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _queues: StreamQueues = field(default_factory=StreamQueues)
    _deadlines: Deadlines = field(default_factory=Deadlines)

    def mediator_of(self, scope: Scope | None) -> RequestMediator:
        return RequestMediator(self, scope)

    def event_mediator_of(self, scope: Scope | None) -> EventMediator:
        return EventMediator(self, scope)

    async def run(self, body: Body[T], message: object, *, read_only: bool, guard: Guard | None = None) -> T:
        """Handle `message` in a unit of work of its own and return after its commit.

        The unit belongs to a task of this kernel: cancelling the caller stops the waiting, never the unit.
        """
        deadline = take_over()
        return await self.own(self._decide(body, message, read_only, guard, deadline))

    async def run_within(self, body: Body[T], message: object, begin: Begin) -> T:
        """Handle `message` once, in a scope of its own and a unit of work that somebody else commits, in the calling
        task. What generators have opened for it is closed before that.
        """
        scope = Scope(self, begin, read_only=False)
        try:
            with self._deadlines.until(asyncio.get_running_loop().time() + self.limits.timeout):
                result = await body(scope, message)
                await scope.unit_of_work.prepare(scope)
            scope.require_unspoiled()
            await scope.unit_of_work.commit()
        except BaseException as error:
            await self._abandon(scope, error)
            raise
        await scope.close(None)
        return result

    async def read(self, body: Callable[[Scope, Any], AsyncIterator[Any]], message: object, put: Put) -> None:
        """Give each item of a stream to `put`, in a read-only scope, in the calling task."""
        scope = Scope(self, self.begin, read_only=True)
        try:
            async with aclosing(body(scope, message)) as items:  # type: ignore[type-var]  # an async generator, which the compiler has checked
                async for item in items:
                    await put(item)
            await scope.unit_of_work.prepare(scope)
        except BaseException as error:
            await self._abandon(scope, error)
            raise
        await scope.unit_of_work.rollback()
        await scope.close(None)

    async def own(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` in a task that outlives its caller."""
        if len(self._tasks) >= self.limits.at_once:
            work.close()
            raise OverloadedError(f"{self.limits.at_once} units of work are under way; try again in a moment")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(_settle(work, outcome))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await outcome

    async def drain(self, seconds: float) -> int:
        """Wait for units under way; how many were still running when the time was over."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        return len(self._tasks)

    async def _decide(
        self, body: Body[T], message: object, read_only: bool, guard: Guard | None, deadline: float | None
    ) -> T:
        """The whole decision is made again after a lost race, from freshly loaded state."""
        forget()
        limit = asyncio.get_running_loop().time() + self.limits.timeout
        contention = Contention(self._queues, self.limits.retries, min(limit, deadline or limit), self.random)
        try:
            while True:
                try:
                    return await self._attempt(body, message, read_only, guard, contention)
                except ConcurrencyError as conflict:
                    if not await contention.outlast(conflict):
                        raise
                except TimeoutError as error:
                    contention.raise_conflict_behind(error)
                    raise
        finally:
            contention.leave()

    async def _attempt(
        self, body: Body[T], message: object, read_only: bool, guard: Guard | None, contention: Contention
    ) -> T:
        scope = Scope(self, self.begin, read_only=read_only)
        try:
            with self._deadlines.until(contention.deadline):
                if guard is not None:
                    await guard(scope)
                result = await body(scope, message)
                await scope.unit_of_work.prepare(scope)
            scope.require_unspoiled()
            # From here on nothing of ours cancels: the outcome must be known.
            await contention.commit(scope.unit_of_work)
        except BaseException as error:
            await self._abandon(scope, error)
            raise
        await _close_after_commit(scope)
        return result

    async def _abandon(self, scope: Scope, error: BaseException) -> None:
        """Roll back and close; what fails here is logged, since the caller needs to see the first error."""
        for step in (scope.unit_of_work.rollback, partial(scope.close, error)):
            try:
                await step()
            except Exception as second:  # noqa: BLE001  # whatever a driver or a user's generator raises
                if second is not error:
                    log.warning("cleanup_failed", error=repr(second), after=repr(error))


async def _close_after_commit(scope: Scope) -> None:
    try:
        await scope.close(None)
    except Exception as error:  # noqa: BLE001  # whatever a user's generator raises
        # The commit has happened, so the caller must not be told that the message failed.
        log.error("scope_close_failed_after_commit", error=repr(error))


async def _settle(work: Coroutine[Any, Any, T], outcome: asyncio.Future[T]) -> None:
    """Run to the end and tell the caller, who may have left."""
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except BaseException as error:  # noqa: BLE001  # it is raised again where the caller waits
        if outcome.cancelled():
            log.error("unit_of_work_failed_after_its_caller_left", error=repr(error))
        else:
            outcome.set_exception(error)
    else:
        if not outcome.cancelled():
            outcome.set_result(result)
