"""One thread writes for everybody and commits what waits together: the disk is waited for once per group.

Wait for the turn, then take all that waits, at most GROUP, without those who were cancelled before that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

from sqlalchemy import Connection, Engine

from cqrs_fastapi.errors import NotRunningError
from cqrs_fastapi.storage.driver_errors import before_commit
from cqrs_fastapi.storage.sqlite_group import GroupTransaction
from cqrs_fastapi.storage.sqlite_members import KeptConnection, Member, settle, take_waiting
from cqrs_fastapi.storage.sqlite_turn import WriteTurn

T = TypeVar("T")

GROUP = 256
"""The most works in one transaction, so that no member waits long for others' statements."""


class SqliteWriter:
    """`engine` must leave BEGIN to this class. Works run one after the other, in the order of their `write`."""

    def __init__(self, engine: Engine, turn: WriteTurn) -> None:
        self._turn = turn
        self._kept = KeptConnection(engine)
        self._transaction = GroupTransaction(engine)
        self._queue: SimpleQueue[Member | None] = SimpleQueue()
        self._closed = False
        # A daemon: a process that ends without `close` is like a crash, which committed groups survive.
        self._thread = threading.Thread(target=self._run, name="cqrs-sqlite-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """As `Database.write`. Cancelling the caller does not undo a work that the thread has taken."""
        if self._closed:
            raise NotRunningError("the database is closed; write while the application runs")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(Member(work, loop, future))
        return await future

    def adopt(self, members: Sequence[Member]) -> None:
        """Write what somebody else could not; each is told by itself. They must not be settled yet."""
        for member in members:
            self._queue.put(member)

    async def close(self) -> None:
        """Commits what waits, then ends the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        ending = False
        while not ending:
            first = self._queue.get()
            self._turn.wait()
            try:
                group, ending = take_waiting(self._queue, first, GROUP)
                self._commit(group)
            finally:
                self._turn.leave()
            settle(group)
        self._kept.drop()

    def _commit(self, group: Sequence[Member]) -> None:
        if not group:
            return
        try:
            with before_commit():
                self._transaction.commit_group(self._kept.get(), group)
        except Exception as error:  # noqa: BLE001  # every member hears of it, none waits for ever
            self._kept.drop()
            for member in group:
                member.error = error
