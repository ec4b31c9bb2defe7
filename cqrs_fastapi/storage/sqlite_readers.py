"""Threads that read for everybody. What waits together is read together: waking a thread costs more than a read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

from sqlalchemy import Connection, Engine

from cqrs_fastapi.errors import NotRunningError
from cqrs_fastapi.storage.driver_errors import before_commit, reading
from cqrs_fastapi.storage.sqlite_members import KeptConnection, Member, forget_transaction, settle, take_waiting

T = TypeVar("T")

GROUP = 32
"""The most works in one group, so that none waits long for the others."""

_READING = reading(write_instead="give the work to Database.write")


class SqliteReaders:
    """`engine` must leave BEGIN to this class. All works of a group see one state of the file, which is at
    least as new as the moment each was asked for.
    """

    def __init__(self, engine: Engine, threads: int) -> None:
        self._engine = engine
        self._queue: SimpleQueue[Member | None] = SimpleQueue()
        self._closed = False
        # Daemons: reading leaves nothing behind.
        self._threads = [
            threading.Thread(target=self._run, name=f"cqrs-sqlite-reader-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As `Database.read`."""
        if self._closed:
            raise NotRunningError("the database is closed; read while the application runs")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(Member(work, loop, future))
        return await future

    async def close(self) -> None:
        """Read what waits, then end the threads."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _run(self) -> None:
        kept, ending = KeptConnection(self._engine), False
        while not ending:
            group, ending = take_waiting(self._queue, self._queue.get(), GROUP)
            if group:
                self._read_all(kept, group)
                settle(group)
        kept.drop()

    def _read_all(self, kept: KeptConnection, group: Sequence[Member]) -> None:
        try:
            with before_commit():
                self._read_together(kept.get(), group)
        except Exception as error:  # noqa: BLE001  # every member hears of it, none waits for ever
            kept.drop()
            for member in group:
                member.error = member.error or error

    def _read_together(self, connection: Connection, group: Sequence[Member]) -> None:
        driver = connection.connection
        driver.execute("BEGIN")
        try:
            for member in group:
                self._read(connection, member)
        finally:
            forget_transaction(connection)
            driver.rollback()  # it has only read

    def _read(self, connection: Connection, member: Member) -> None:
        try:
            with before_commit(), _READING:
                member.result = member.work(connection)
        except StopIteration as error:
            member.error = RuntimeError(f"the work raised {error!r}, which no future can carry")
        except BaseException as error:  # noqa: BLE001  # it is raised again where the caller waits
            member.error = error
