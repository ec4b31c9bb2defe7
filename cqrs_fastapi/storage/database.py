"""One database, whichever it is. SQL is written as plain functions over a Core `Connection`; this runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection, MetaData, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from cqrs_fastapi.errors import ConfigurationError, UnavailableError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import schema
from cqrs_fastapi.storage.driver_errors import before_commit, reading
from cqrs_fastapi.storage.postgres import Calls, PostgresBackend
from cqrs_fastapi.storage.sqlite import SqliteBackend
from cqrs_fastapi.storage.tables import Tables, build_tables
from cqrs_fastapi.storage.urls import Dialect, checked_url, dialect_of

T = TypeVar("T")

_PING_SECONDS = 2.0
_READ_ONLY = "cqrs_read_only"


class _Backend(Protocol):
    engine: AsyncEngine

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def read(self, work: Callable[[Connection], T]) -> T: ...
    async def read_few(self, work: Callable[[Connection], T]) -> T: ...
    async def write(self, work: Callable[[Connection], T]) -> T: ...
    async def write_few(self, work: Callable[[Connection], T]) -> T: ...
    async def write_once(self, work: Callable[[Connection], T]) -> T: ...
    def sessions(self, *, read_only: bool) -> AsyncEngine: ...


class Database:
    """A work is a function of a connection that returns plain values, never an open result. It must not commit.

    It may be run again when its first run was undone (SQLite: another member of its group ended the transaction;
    PostgreSQL: a read on a dead connection), so it changes nothing but the database. A work that catches an error of a
    statement and goes on does so inside `with connection.begin_nested()`: PostgreSQL ends the transaction otherwise.
    """

    def __init__(
        self, settings: Settings, *, metadata: MetaData | None = None, engine: AsyncEngine | None = None
    ) -> None:
        """`metadata` receives the tables. A fresh `engine` replaces the one made of the settings; `close` closes it."""
        given = settings.database_url if engine is None else engine.url.render_as_string(hide_password=False)
        url = checked_url(given)
        self.dialect: Dialect = dialect_of(url)
        if self.dialect == "sqlite" and settings.database_schema is not None:
            raise ConfigurationError("SQLite has no schemas; leave database_schema out, or use PostgreSQL")
        self.tables: Tables = build_tables(metadata or MetaData(), settings.table_prefix, settings.database_schema)
        self._prefix, self._schema = settings.table_prefix, settings.database_schema
        self._sqlite = SqliteBackend(url, settings, engine) if self.dialect == "sqlite" else None
        self._postgres = None if self._sqlite else PostgresBackend(url, settings, engine)
        self._backend: _Backend = _either(self._sqlite, self._postgres)
        self.engine: AsyncEngine = self._backend.engine

    async def open(self) -> None:
        """Makes and migrates a SQLite file. On PostgreSQL it does neither, nor connects: see `ping` and `check_schema`.

        ConfigurationError for a file that cannot be used or that newer code has migrated.
        """
        await self._backend.open()
        if self._sqlite is not None:
            await self._sqlite.migrate(partial(schema.upgrade, prefix=self._prefix, schema=self._schema))

    async def close(self) -> None:
        """Commits the writes that wait, then closes all connections. It may be opened again."""
        await self._backend.close()

    async def ping(self) -> None:
        """UnavailableError unless the database answers within two seconds."""
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self.read(lambda connection: connection.execute(select(1)).scalar_one())
        except TimeoutError as error:
            raise UnavailableError(f"the database did not answer within {_PING_SECONDS:.0f} seconds") from error

    async def check_schema(self) -> None:
        """SchemaBehindError unless the tables are at the head; SchemaAheadError, one of its kind, if they are newer."""
        await self.read(partial(schema.require_head, prefix=self._prefix, schema=self._schema))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs a work that only reads, and sees committed rows only. UnavailableError if the database does not answer.

        On PostgreSQL each statement sees what is committed when it begins; on SQLite all statements see one state, and
        one that writes is a ReadOnlyError.
        """
        return await self._backend.read(work)

    async def read_few(self, work: Callable[[Connection], T]) -> T:
        """As `read`, for a work of one statement that finds about a thousand rows at most, by an index.

        On SQLite it runs in the calling thread, which it holds for that long.
        """
        return await self._backend.read_few(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction around the work, committed when this returns; an error in it rolls back and is raised.

        UnavailableError: nothing was written. UnknownOutcomeError: the answer to COMMIT was lost. A caller that is
        cancelled does not know whether it has written.
        """
        return await self._backend.write(work)

    async def write_few(self, work: Callable[[Connection], T]) -> T:
        """As `write`, for a work of a few statements that touch a few rows.

        On SQLite it runs in the calling thread, which it holds for that long; only the disk is waited for elsewhere.
        """
        return await self._backend.write_few(work)

    async def write_once(self, work: Callable[[Connection], T]) -> T:
        """As `write_few`, for a work of one statement: a transaction of its own on PostgreSQL, and one round trip.

        UnknownOutcomeError also where the connection was found dead, so it may only be what can be done twice.
        """
        return await self._backend.write_once(work)

    def calls(self) -> Calls:
        """A block of statements of PostgreSQL's that are transactions of their own."""
        if self._postgres is None:
            raise ConfigurationError("SQLite has no functions to call; give a work to Database.write")
        return self._postgres.calls()

    def session(self, *, read_only: bool = False) -> AsyncSession:
        """A new session, whose objects stay readable after the commit; use `driver_errors.commit` to commit it.

        On SQLite it holds the only write lock from its first statement on, unless it is `read_only`.
        """
        info = {_READ_ONLY: True} if read_only else None
        return AsyncSession(self._backend.sessions(read_only=read_only), expire_on_commit=False, info=info)

    async def run(self, session: AsyncSession, work: Callable[[Connection], T]) -> T:
        """Runs a work in the session's own transaction, which somebody else commits."""
        promise = (
            reading(write_instead="use a session without read_only") if _READ_ONLY in session.info else nullcontext()
        )
        with before_commit(), promise:
            connection = await session.connection()
            return await connection.run_sync(work)


def _either(sqlite: SqliteBackend | None, postgres: PostgresBackend | None) -> _Backend:
    backend = sqlite or postgres
    assert backend is not None  # noqa: S101  # for the checker: a URL has one of the two dialects
    return backend
