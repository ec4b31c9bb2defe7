"""How long units of work may take: the deadline of each, and the one that a behavior sets around it and that the unit
itself keeps, up to its commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True, slots=True)
class _Deadline:
    at: float
    timers: tuple[asyncio.Timeout, ...]


_CURRENT: ContextVar[_Deadline | None] = ContextVar("cqrs_deadline", default=None)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError when the block takes longer. A unit of work begun in it keeps the deadline in its place: were
    the waiting cut off from outside, the unit could still commit, and nobody would know.
    """
    outer = _CURRENT.get()
    at = asyncio.get_running_loop().time() + seconds
    async with asyncio.timeout(seconds) as timer:
        deadline = _Deadline(min(at, outer.at), (*outer.timers, timer)) if outer else _Deadline(at, (timer,))
        token = _CURRENT.set(deadline)
        try:
            yield
        finally:
            _CURRENT.reset(token)


def take_over() -> float | None:
    """When the unit of work that is about to begin must be ready to commit, by the loop's clock. The timers that were
    waiting for it stop: from here on it is the unit's own task that is interrupted.
    """
    deadline = _CURRENT.get()
    if deadline is None:
        return None
    for timer in deadline.timers:
        if not timer.expired():
            timer.reschedule(None)
    return deadline.at


def forget() -> None:
    """In the task of a unit of work: what it begins in turn has no part in the deadline."""
    _CURRENT.set(None)


class Deadlines:
    """What `asyncio.timeout_at` does, for many blocks that hardly ever time out: one timer of the loop serves them
    all. It belongs to one event loop.
    """

    __slots__ = ("_entered", "_timer")

    def __init__(self) -> None:
        self._entered: set[Limited] = set()
        self._timer: asyncio.TimerHandle | None = None

    def until(self, at: float) -> Limited:
        """A block that raises TimeoutError if the task is still in it at that time of the loop's clock."""
        return Limited(self, at)

    def add(self, block: Limited) -> None:
        """Watch a block that was entered."""
        self._entered.add(block)
        if self._timer is None or block.at < self._timer.when():
            self._look_at(block.at)

    def remove(self, block: Limited) -> None:
        """It was left. The timer stays: it is for the next one, which ends later."""
        self._entered.discard(block)

    def _look_at(self, at: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        if at > loop.time():
            self._timer = loop.call_at(at, self._look)
        else:
            self._timer = None
            loop.call_soon(self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for block in [block for block in self._entered if block.at <= now]:
            self.remove(block)
            block.interrupt()
        if self._entered:
            self._look_at(min(block.at for block in self._entered))


class Limited:
    """One such block, entered once."""

    __slots__ = ("_before", "_deadlines", "_is_interrupted", "_task", "at")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self._deadlines = deadlines
        self.at = at
        self._is_interrupted = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a block with a deadline belongs into a task")
        self._task = task
        self._before = task.cancelling()
        self._deadlines.add(self)

    def interrupt(self) -> None:
        """Its time is over."""
        self._is_interrupted = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._deadlines.remove(self)
        # Where somebody else has cancelled the task as well, it is their cancellation that goes on.
        if self._is_interrupted and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error
