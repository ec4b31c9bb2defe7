"""Reads and writes in the calling thread: a few statements take SQLite less time than a hop to another thread and back.

Only what may wait goes to a thread: COMMIT, which waits for the disk, and whatever finds a lock in its way.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection, Engine

from cqrs_fastapi.storage.driver_errors import before_commit, reading
from cqrs_fastapi.storage.sqlite_group import GroupTransaction, driver_of, roll_back
from cqrs_fastapi.storage.sqlite_members import KeptConnection, Member, forget_transaction
from cqrs_fastapi.storage.sqlite_turn import WriteTurn
from cqrs_fastapi.storage.sqlite_writer import SqliteWriter

T = TypeVar("T")

GROUP = 32
"""The most works in one transaction: an event loop is held by so many at once."""

_READING = reading(write_instead="give the work to Database.write")


class HereReader:
    """`engine` must wait for no lock: where it would have to, `read` raises UnavailableError at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._of_thread = threading.local()
        self._kept: list[KeptConnection] = []

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run a work of one statement."""
        kept = self._mine()
        try:
            with before_commit(), _READING:
                connection = kept.get()
                result = work(connection)
                forget_transaction(connection)
                return result
        except BaseException:
            kept.drop()
            raise

    def close(self) -> None:
        """Close the connections of all threads."""
        for kept in self._kept:
            kept.drop()

    def _mine(self) -> KeptConnection:
        """The connection of this thread: event loops in several threads may share a database."""
        kept: KeptConnection | None = getattr(self._of_thread, "kept", None)
        if kept is None:
            kept = self._of_thread.kept = KeptConnection(self._engine)
            self._kept.append(kept)
        return kept


@dataclass(slots=True)
class _Line:
    """Who waits in one event loop, and the task that serves them."""

    loop: asyncio.AbstractEventLoop
    waiting: deque[Member] = field(default_factory=deque)
    serving: asyncio.Task[None] | None = None


class HereWriter:
    """Commits what waits in an event loop together, as the writer's thread does.

    `engine` must wait for no lock and leave BEGIN to this class. What does not go smoothly is given to `writer`, with
    nothing written yet.
    """

    def __init__(self, engine: Engine, turn: WriteTurn, writer: SqliteWriter, patience: float) -> None:
        self._turn = turn
        self._writer = writer
        self._patience = patience
        self._kept = KeptConnection(engine)
        self._transaction = GroupTransaction(engine)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="cqrs-sqlite-commit")
        self._of_thread = threading.local()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run a work of a few statements. Cancelling the caller does not undo one that has been taken."""
        line = self._mine()
        future: asyncio.Future[T] = line.loop.create_future()
        line.waiting.append(Member(work, line.loop, future))
        if line.serving is None:
            line.serving = line.loop.create_task(self._serve(line))
        return await future

    async def close(self) -> None:
        """Commit what waits in this event loop."""
        line = self._mine()
        if line.serving is not None:
            await asyncio.wait({line.serving})
        self._kept.drop()
        self._disk.shutdown()

    async def _serve(self, line: _Line) -> None:
        try:
            while line.waiting:
                await self._turn.come(self._patience)
                group = _taken(line.waiting)
                try:
                    smooth = not group or await self._commit(group)
                finally:
                    self._turn.leave()
                if smooth:
                    for member in group:
                        member.settle()
                else:
                    self._writer.adopt(group)
        except Exception as error:  # noqa: BLE001  # the turn did not come: everybody hears of it, none waits for ever
            for member in line.waiting:
                member.error = error
                member.settle()
            line.waiting.clear()
        finally:
            line.serving = None

    async def _commit(self, group: Sequence[Member]) -> bool:
        """False, with nothing written, if the writer's thread must do it."""
        connection = self._kept.get()
        driver = driver_of(connection)
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False  # another process is writing
        try:
            return self._transaction.run_all(connection, group) and await self._committed(driver)
        except Exception as error:  # noqa: BLE001  # every member hears of it
            for member in group:
                member.error = error
            return True
        finally:
            roll_back(driver)
            forget_transaction(connection)

    async def _committed(self, driver: sqlite3.Connection) -> bool:
        committing = asyncio.get_running_loop().run_in_executor(self._disk, self._transaction.commit_all, driver)
        try:
            return await asyncio.shield(committing)
        except asyncio.CancelledError:
            await asyncio.wait({committing})  # the connection is in use until then
            raise

    def _mine(self) -> _Line:
        loop = asyncio.get_running_loop()
        line: _Line | None = getattr(self._of_thread, "line", None)
        if line is None or line.loop is not loop:
            line = self._of_thread.line = _Line(loop)
        return line


def _taken(waiting: deque[Member]) -> list[Member]:
    """The first of those that wait, without those who were cancelled meanwhile."""
    group: list[Member] = []
    while waiting and len(group) < GROUP:
        member = waiting.popleft()
        if not member.future.cancelled():
            group.append(member)
    return group
