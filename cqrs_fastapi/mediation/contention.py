"""How a command goes on after a conflict: after a random pause at first, then by the queue of the stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from cqrs_fastapi.errors import ConcurrencyError
from cqrs_fastapi.mediation.scope import UnitOfWorkPort
from cqrs_fastapi.mediation.stream_queue import Key, StreamQueues, Turn
from cqrs_fastapi.messages.metadata import holder

QUEUE_AFTER = 2
"""The conflict after which a command asks for the turn on the stream; where others are queueing, it is the first."""
LONGEST_PAUSE = 0.25
PAUSE_IN_TURN = 0.01
"""Seconds. It is only other processes that the holder of a turn gets out of step with, and many may be waiting."""


@dataclass(slots=True)
class Contention:
    """What one command meets with on its way to the commit, up to its `deadline` by the loop's clock.

    Where a conflict shows a version that was not there before, somebody else has got on, and so may this command: it
    tries until its deadline. Where the version is the same again, nobody came in between, and what cannot be committed
    is the decision: it is made again until that was done `retries` times, outside of all queues.
    """

    queues: StreamQueues
    retries: int
    deadline: float
    random: random.Random
    _conflicts: int = 0
    _in_vain: int = 0
    _found: tuple[str, int] | None = None
    _stream: str | None = None
    _gave_way: bool = False
    _turn: Turn | None = None

    async def outlast(self, conflict: ConcurrencyError) -> bool:
        """Wait until the decision should be made again; False if it should not be."""
        self._stream = conflict.stream
        key = _key(conflict.stream)
        if self._gave_way:
            self._gave_way, is_queueing = False, True
        else:
            self._count(conflict)
            if not conflict.retryable or self._in_vain >= self.retries:
                return False
            is_queueing = not self._in_vain and self._queues_for(key)
        if not (is_queueing and await self._has_turn(key)):
            await self._pause()
        return _now() < self.deadline

    async def commit(self, unit: UnitOfWorkPort) -> None:
        """Commit the unit of this command; meanwhile `give_way` concerns this command."""
        token = _COMMITTING.set(self)
        try:
            await unit.commit()
        finally:
            _COMMITTING.reset(token)

    def require_turn(self, stream: str) -> None:
        """Raise a conflict if others are queueing for the stream. It is none that counts."""
        if not self._in_vain and self.queues.is_ahead(_key(stream)):
            self._gave_way = True
            raise _late(stream)

    def raise_conflict_behind(self, timeout: TimeoutError) -> None:
        """Where it is others who took the time that is over, the caller is told of the conflict."""
        if self._stream is not None and _now() >= self.deadline:
            raise _late(self._stream) from timeout

    def leave(self) -> None:
        """Let others have the turn, if it is here."""
        if self._turn is not None:
            self._turn.leave()
            self._turn = None

    def _count(self, conflict: ConcurrencyError) -> None:
        found = (conflict.stream, conflict.actual)
        self._conflicts += 1
        # Once it was in vain it stays so: else what others write would keep up the hope of a decision that has none.
        if self._in_vain or found == self._found:
            self._in_vain += 1
        self._found = found

    def _queues_for(self, key: Key) -> bool:
        return self._conflicts >= QUEUE_AFTER or self._holds(key) or self.queues.is_ahead(key)

    def _holds(self, key: Key) -> bool:
        return self._turn is not None and self._turn.lasts and self._turn.key == key

    async def _has_turn(self, key: Key) -> bool:
        if self._holds(key):
            await self._sleep(PAUSE_IN_TURN)
            return True
        self.leave()  # one at a time: who has none while it waits keeps nobody waiting
        self._turn = await self.queues.take(key, self.deadline)
        return self._turn is not None

    async def _pause(self) -> None:
        self.leave()
        await self._sleep(min(LONGEST_PAUSE, 0.005 * 2**self._conflicts))

    async def _sleep(self, longest: float) -> None:
        await asyncio.sleep(max(0.0, min(self.random.uniform(0, longest), self.deadline - _now())))


def give_way(streams: Iterable[str]) -> None:
    """For a unit of work that is about to write these streams: raises a ConcurrencyError, after which its command joins
    the queue and decides again, if others are queueing for one of them. Else whoever just came would overtake them, and
    make the first of them lose its race each time.
    """
    contention = _COMMITTING.get()
    if contention is not None and contention.queues:
        for stream in streams:
            contention.require_turn(stream)


_COMMITTING: ContextVar[Contention | None] = ContextVar("cqrs_committing", default=None)


def _late(stream: str) -> ConcurrencyError:
    error = ConcurrencyError(stream=stream, expected="its turn", actual=0)
    error.args = (f"others were writing stream {stream!r} until this command's time was over; nothing was written",)
    return error


def _key(stream: str) -> Key:
    current = holder()
    return ((current.metadata.tenant or "") if current is not None else "", stream)


def _now() -> float:
    return asyncio.get_running_loop().time()
