"""One thread writes for everybody and commits what waits together: the disk is waited for once per group.

1. Wait for the turn, then take all that waits, at most GROUP. Skip who was cancelled before that.
2. BEGIN IMMEDIATE; each work in a savepoint of its own, so that an error undoes only its own work.
3. One COMMIT. Only then does any member hear that it has written.
If SQLite itself ended the transaction in between (a full disk), or the COMMIT was refused because of what one of them
wrote, each is run again in a transaction of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError

from cqrs_fastapi.errors import ConfigurationError, NotRunningError
from cqrs_fastapi.storage.driver_errors import at_commit, before_commit
from cqrs_fastapi.storage.sqlite_members import KeptConnection, Member, forget_transaction, settle
from cqrs_fastapi.storage.sqlite_turn import WriteTurn

T = TypeVar("T")

GROUP = 256
"""The most works in one transaction, so that no member waits long for others' statements."""


class SqliteWriter:
    """`engine` must leave BEGIN to this class. Works run one after the other, in the order of their `write`."""

    def __init__(self, engine: Engine, turn: WriteTurn) -> None:
        self._turn = turn
        self._kept = KeptConnection(engine)
        self._queue: SimpleQueue[Member | None] = SimpleQueue()
        self._closed = False
        self._working = False
        event.listen(engine, "commit", self._refuse)
        event.listen(engine, "rollback", self._refuse)
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
                group, ending = self._take(first)
                self._commit(group)
            finally:
                self._turn.leave()
            settle(group)
        self._kept.drop()

    def _take(self, first: Member | None) -> tuple[list[Member], bool]:
        """What waits now, the first one with it, and whether nothing comes after it."""
        group: list[Member] = []
        item = first
        while item is not None:
            if not item.future.cancelled():
                group.append(item)
            if len(group) == GROUP:
                return group, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return group, False
        return group, True

    def _commit(self, group: Sequence[Member]) -> None:
        if not group:
            return
        try:
            with before_commit():
                self._commit_group(self._kept.get(), group)
        except Exception as error:  # noqa: BLE001  # every member hears of it, none waits for ever
            self._kept.drop()
            for member in group:
                member.error = error

    def _commit_group(self, connection: Connection, group: Sequence[Member]) -> None:
        if len(group) == 1 or not self._commit_together(connection, group):
            for member in group:
                self._commit_alone(connection, member)
        forget_transaction(connection)

    def _commit_together(self, connection: Connection, group: Sequence[Member]) -> bool:
        """False, with nothing written, if they must be run one by one."""
        driver = _driver(connection)
        driver.execute("BEGIN IMMEDIATE")
        try:
            for member in group:
                driver.execute("SAVEPOINT member")
                self._work(connection, member)
                if not driver.in_transaction:
                    return False
                if member.error is not None:
                    driver.execute("ROLLBACK TO member")
                driver.execute("RELEASE member")
            return self._commit_all(driver)
        finally:
            if driver.in_transaction:
                driver.execute("ROLLBACK")

    def _commit_all(self, driver: sqlite3.Connection) -> bool:
        try:
            with at_commit():
                driver.execute("COMMIT")
        except sqlite3.IntegrityError:
            return False  # a deferred constraint: one of them broke it, and only running each alone tells which
        return True

    def _commit_alone(self, connection: Connection, member: Member) -> None:
        driver = _driver(connection)
        try:
            driver.execute("BEGIN IMMEDIATE")
            self._work(connection, member)
            if member.error is None:
                with at_commit():
                    driver.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            member.error = IntegrityError("COMMIT", None, error)
        except Exception as error:  # noqa: BLE001  # it is this member's, the next is run all the same
            member.error = error
        finally:
            if driver.in_transaction:
                driver.execute("ROLLBACK")

    def _work(self, connection: Connection, member: Member) -> None:
        member.result, member.error = None, None
        self._working = True
        try:
            with before_commit():
                member.result = member.work(connection)
        except StopIteration as error:
            member.error = RuntimeError(f"the work raised {error!r}, which no future can carry")
        except BaseException as error:  # noqa: BLE001  # it is raised again where the caller waits
            member.error = error
        finally:
            while (nested := connection.get_nested_transaction()) is not None and _driver(connection).in_transaction:
                nested.rollback()
            self._working = False
            self._forget_transaction(connection)

    def _forget_transaction(self, connection: Connection) -> None:
        """What SQLAlchemy thinks of a transaction after a refused `commit()`; the real one is the driver's."""
        transaction = connection.get_transaction()
        if transaction is not None and not transaction.is_active:
            transaction.close()

    def _refuse(self, _: Connection) -> None:
        if self._working:
            raise ConfigurationError(
                "a work given to Database.write ended its transaction; leave out commit() and rollback(): "
                "it is committed when the work returns and rolled back when it raises"
            )


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"the writer needs sqlite3 and was given {type(driver).__name__}")
    return driver
