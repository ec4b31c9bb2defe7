"""Turns on a contended stream: one command at a time, in the order in which they asked."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import ContextVar
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]
"""Tenant and stream."""


class StreamQueues:
    """The queues of one process, in one event loop. A stream has one while somebody has its turn or waits for it.

    They spare useless work and keep nobody out: another process may write the stream all the same. What keeps it right
    is the check of its version at the commit.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Key, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def is_ahead(self, key: Key) -> bool:
        """Whether there is a queue at whose end this task belongs. What runs within a turn goes past all of them."""
        return key in self._waiting and not _within_a_turn()

    async def take(self, key: Key, until: float) -> Turn | None:
        """The turn, first come, first served, which lasts no longer than `until` (by the loop's clock).

        None if it does not come until then, and at once within a turn: its holder may be waiting for this task, so that
        each would wait for the other.
        """
        if _within_a_turn():
            return None
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = deque()
        elif not await self._came(key, waiting, until):
            return None
        return Turn(self, key, until)

    def pass_on(self, key: Key) -> None:
        """Give the turn to the first who still waits; if nobody does, the queue is gone."""
        waiting = self._waiting[key]
        while waiting:
            came = waiting.popleft()
            if not came.done():
                came.set_result(None)
                return
        del self._waiting[key]

    async def _came(self, key: Key, waiting: deque[asyncio.Future[None]], until: float) -> bool:
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(came)
        try:
            async with asyncio.timeout_at(until):
                await came
        except BaseException as error:
            if not came.cancel() and not came.cancelled():
                self.pass_on(key)  # it came in the very moment in which this one left
            if isinstance(error, TimeoutError):
                return False
            raise
        return True


class Turn:
    """The turn on one stream. It ends by `leave`, or by itself when its time is over: a holder that hangs in its
    commit, where nothing of ours cancels it, must not keep the others waiting.
    """

    __slots__ = ("_queues", "_timer", "key", "lasts")

    def __init__(self, queues: StreamQueues, key: Key, until: float) -> None:
        self._queues = queues
        self.key = key
        self.lasts = True
        self._timer = asyncio.get_running_loop().call_at(until, self.leave)
        _LATEST.set(self)

    def leave(self) -> None:
        """Let the next one in. Doing so twice does no harm."""
        if self.lasts:
            self.lasts = False
            self._timer.cancel()
            self._queues.pass_on(self.key)


_LATEST: ContextVar[Turn | None] = ContextVar("cqrs_turn", default=None)
"""The latest turn of a context. Tasks that are begun within it inherit it, and may outlive it."""


def _within_a_turn() -> bool:
    turn = _LATEST.get()
    return turn is not None and turn.lasts
