"""A deadline that a behavior sets outside the unit of work and that the unit itself keeps, up to its commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass


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
