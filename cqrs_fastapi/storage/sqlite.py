"""SQLite: write-ahead log, full synchronisation, one writer at a time that never finds the database locked half way."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from cqrs_fastapi.errors import ConfigurationError, NotRunningError, UnavailableError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import sortable_numbers
from cqrs_fastapi.storage.driver_errors import before_commit
from cqrs_fastapi.storage.sqlite_here import HereReader, HereWriter
from cqrs_fastapi.storage.sqlite_readers import SqliteReaders
from cqrs_fastapi.storage.sqlite_turn import WriteTurn
from cqrs_fastapi.storage.sqlite_writer import SqliteWriter
from cqrs_fastapi.storage.urls import require_usable_file

T = TypeVar("T")

READ_ONLY = "cqrs_read_only"
TURN = "cqrs_turn"
_BUSY_SECONDS = 30.0
_READERS = 2


class SqliteBackend:
    """`engine` (aiosqlite) serves sessions, with one hop between threads per statement.

    That is too slow for works: they use synchronous connections to the same file, one hop per `read` or `write`.
    """

    def __init__(self, url: URL, settings: Settings, engine: AsyncEngine | None) -> None:
        self._url = url
        self._sync_url = url.set(drivername="sqlite+pysqlite")
        self.engine = engine or create_async_engine(
            url,
            pool_size=settings.pool_size,
            max_overflow=settings.pool_overflow,
            pool_timeout=settings.pool_timeout.total_seconds(),
            hide_parameters=True,
        )
        event.listen(self.engine.sync_engine, "connect", _configure)
        self._turn = WriteTurn()
        event.listen(self.engine.sync_engine, "begin", self._begin_session)
        event.listen(self.engine.sync_engine.pool, "checkin", self._leave_turn)
        self._running: _Threads | None = None

    async def open(self) -> None:
        """ConfigurationError for a file that cannot be used; the file is made if there is none."""
        require_usable_file(self._url)
        if self._running is None:
            with before_commit():
                await asyncio.to_thread(_set_write_ahead, self._url.database or "")
            self._running = _Threads(self._sync_url, self._turn)

    async def close(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            await running.close()
        await self.engine.dispose()

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._threads().readers.read(work)

    async def read_few(self, work: Callable[[Connection], T]) -> T:
        threads = self._threads()
        try:
            return threads.here.read(work)
        except UnavailableError:
            return await threads.readers.read(work)  # it can wait there for whatever was in the way

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._threads().writer.write(work)

    async def write_few(self, work: Callable[[Connection], T]) -> T:
        return await self._threads().here_writer.write(work)

    async def write_once(self, work: Callable[[Connection], T]) -> T:
        return await self.write_few(work)

    async def migrate(self, work: Callable[[Connection], T]) -> T:
        """In a transaction of its own, since a migration asks the connection for transactions."""
        return await asyncio.to_thread(self._migrate, work)

    def sessions(self, *, read_only: bool) -> AsyncEngine:
        return self.engine.execution_options(**{READ_ONLY: True}) if read_only else self.engine

    def _begin_session(self, connection: Connection) -> None:
        """A session that may write waits for its turn in this process before it asks for the file's lock."""
        read_only = bool(connection.get_execution_options().get(READ_ONLY, False))
        if not read_only and not connection.info.get(TURN, False):
            await_only(self._turn.come(_BUSY_SECONDS))
            connection.info[TURN] = True
        _begin_immediate(connection)

    def _leave_turn(self, _: Any, record: ConnectionPoolEntry) -> None:
        """Its transaction is over when the connection comes back to the pool, however it ended."""
        if record.info.pop(TURN, False):
            self._turn.leave()

    def _threads(self) -> _Threads:
        if self._running is None:
            raise NotRunningError("the database is not open; write: await database.open()")
        return self._running

    def _migrate(self, work: Callable[[Connection], T]) -> T:
        engine = _sync_engine(self._sync_url, 1)
        event.listen(engine, "begin", _begin_immediate)
        try:
            with before_commit(), engine.begin() as connection:
                return work(connection)
        finally:
            engine.dispose()


class _Threads:
    """The writer's thread and the readers', and what reads without one."""

    def __init__(self, url: URL, turn: WriteTurn) -> None:
        self._write_engine = _sync_engine(url, 1)
        self._read_engine = _sync_engine(url, _READERS)
        event.listen(self._read_engine, "connect", _forbid_writes)
        self._here_engine = _sync_engine(url, _READERS)
        event.listen(self._here_engine, "connect", _forbid_writes)
        event.listen(self._here_engine, "connect", _forbid_waiting)
        self._here_write_engine = _sync_engine(url, 1)
        event.listen(self._here_write_engine, "connect", _forbid_waiting)
        self.readers = SqliteReaders(self._read_engine, _READERS)
        self.here = HereReader(self._here_engine)
        self.writer = SqliteWriter(self._write_engine, turn)
        self.here_writer = HereWriter(self._here_write_engine, turn, self.writer, _BUSY_SECONDS)

    async def close(self) -> None:
        await self.here_writer.close()
        await self.writer.close()
        await self.readers.close()
        self.here.close()
        self._here_engine.dispose()
        self._here_write_engine.dispose()
        self._write_engine.dispose()
        self._read_engine.dispose()


def _sync_engine(url: URL, connections: int) -> Engine:
    engine = create_engine(url, pool_size=connections, max_overflow=0, hide_parameters=True)
    event.listen(engine, "connect", _configure)
    return engine


def _configure(connection: Any, _: Any) -> None:
    """For each new connection. The driver must not begin by itself: deferred, it would fail at the first write."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000:.0f}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
    connection.create_function(sortable_numbers.FUNCTION, 1, sortable_numbers.sortable_json, deterministic=True)


def _forbid_writes(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA query_only=ON")


def _forbid_waiting(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout=0")


def _begin_immediate(connection: Connection) -> None:
    """A pooled connection remembers what it is for, so that the pragma is run only when that changes."""
    read_only = bool(connection.get_execution_options().get(READ_ONLY, False))
    if connection.info.get(READ_ONLY, False) is not read_only:
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
        connection.info[READ_ONLY] = read_only
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _set_write_ahead(file: str) -> None:
    """Once per file, which remembers it; a connection that others keep from it waits its turn."""
    connection = sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    finally:
        connection.close()
    if mode != "wal":
        raise ConfigurationError(
            f"SQLite keeps {file} in mode {mode!r}: its file system has no shared memory; use another"
        )
