"""One work that waits for a thread of SQLite's, and the way back of its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy import Connection, Engine


@dataclass(slots=True, eq=False)
class Member:
    """A work of a group, with who waits for it."""

    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tell who waits, in its own event loop."""
        if self.future.cancelled():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


def take_waiting(queue: SimpleQueue[Member | None], first: Member | None, at_most: int) -> tuple[list[Member], bool]:
    """The first one and what waits behind it, without those whose callers have left, and whether nothing comes after.

    None in a queue is the last of it.
    """
    group: list[Member] = []
    item = first
    while item is not None:
        if not item.future.cancelled():
            group.append(item)
        if len(group) == at_most:
            return group, False
        try:
            item = queue.get_nowait()
        except Empty:
            return group, False
    return group, True


class KeptConnection:
    """A thread's connection, kept from group to group: taking one from the pool costs as much as a small read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def get(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def drop(self) -> None:
        """Give it back; the next group gets another."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def forget_transaction(connection: Connection) -> None:
    """End what SQLAlchemy began by itself around the works; the real transaction was the driver's and is over."""
    transaction = connection.get_transaction()
    if transaction is not None:
        transaction.close()


def settle(group: Sequence[Member]) -> None:
    """Wakes each event loop once, whatever the size of the group. Called from a thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Member]] = {}
    for member in group:
        by_loop.setdefault(member.loop, []).append(member)
    for loop, members in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, members)
        except RuntimeError:
            if not loop.is_closed():  # in a closed loop nobody waits any more
                raise


def _settle_all(members: Sequence[Member]) -> None:
    for member in members:
        member.settle()
