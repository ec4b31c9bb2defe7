"""PostgreSQL by a pool of asyncpg connections, READ COMMITTED."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import structlog
from sqlalchemy import URL, Connection, ExceptionContext, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from cqrs_fastapi.errors import UnknownOutcomeError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.driver_errors import at_commit, before_commit, is_lost_connection

T = TypeVar("T")

log = structlog.get_logger("cqrs_fastapi")

_FAILED = "cqrs_statement_failed"

ANSWER_SECONDS = 30.0
"""A call without an answer for so long is lost: a server or a network that hangs must not hold up all that waits."""


class PostgresBackend:
    """No connection is tested before use, which would cost a round trip each time.

    A read that finds its connection dead is repeated once on a new one; a write raises UnavailableError. Either makes
    the pool forget its other connections of that age.
    """

    def __init__(self, url: URL, settings: Settings, engine: AsyncEngine | None) -> None:
        self.engine = engine or create_async_engine(
            url,
            pool_size=settings.pool_size,
            max_overflow=settings.pool_overflow,
            pool_timeout=settings.pool_timeout.total_seconds(),
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            connect_args={
                "timeout": settings.pool_timeout.total_seconds(),
                "server_settings": {"application_name": settings.service},
            },
        )
        event.listen(self.engine.sync_engine, "handle_error", _remember_error)
        event.listen(self.engine.sync_engine, "commit", _refuse_aborted)
        event.listen(self.engine.sync_engine, "rollback", _forget_error)
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    async def open(self) -> None:
        """Connects to nothing: the application starts, and is not ready, while its database is down."""

    async def close(self) -> None:
        await self.engine.dispose()

    async def read(self, work: Callable[[Connection], T]) -> T:
        with before_commit():
            try:
                return await self._read_once(work)
            except DBAPIError as error:
                if not is_lost_connection(error):
                    raise
            return await self._read_once(work)

    async def read_few(self, work: Callable[[Connection], T]) -> T:
        return await self.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        with before_commit():
            async with self.engine.connect() as connection:
                result = await connection.run_sync(work)
                with at_commit():
                    await connection.commit()
                return result

    async def write_few(self, work: Callable[[Connection], T]) -> T:
        return await self.write(work)

    async def write_once(self, work: Callable[[Connection], T]) -> T:
        with at_commit():
            return await self._read_once(work)

    def calls(self) -> Calls:
        return Calls(self._reading)

    def sessions(self, *, read_only: bool) -> AsyncEngine:
        return self.engine.execution_options(postgresql_readonly=True) if read_only else self.engine

    async def _read_once(self, work: Callable[[Connection], T]) -> T:
        """In one greenlet. An AsyncConnection takes one each to connect, to work and to close, and a task besides: more
        than a short statement takes.
        """

        def connected() -> T:
            with self._reading.sync_engine.connect() as connection:
                return work(connection)

        return await greenlet_spawn(connected)


class Calls:
    """Statements that are transactions of their own, a round trip each, on one connection of the pool: the first call
    takes it, and the end of the block gives it back.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._driver: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def call(self, statement: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """The one row of a statement with `$1` for parameters, given to the driver as it is.

        UnavailableError: it has done nothing. UnknownOutcomeError: its answer was lost. Errors of the statement itself
        are the driver's.
        """
        while self._driver is None or self._driver.is_closed():
            await self._give_back(lost=True)  # it died while nobody used it, so nothing has been sent
            await self._take()
        try:
            with at_commit():
                row: Sequence[Any] = await self._driver.fetchrow(statement, *arguments, timeout=ANSWER_SECONDS)
        except UnknownOutcomeError:
            try:
                await self._give_back(lost=True)
            except Exception as error:  # noqa: BLE001  # that the outcome is unknown must not be hidden behind it
                log.warning("lost_connection_not_given_back", error=repr(error))
            raise
        return row

    async def __aexit__(self, *_: object) -> None:
        await self._give_back(lost=False)

    async def _take(self) -> None:
        connection = self._engine.connect()
        with before_commit():
            await connection.start()
        self._connection = connection
        self._driver = (await connection.get_raw_connection()).driver_connection

    async def _give_back(self, *, lost: bool) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            if lost:
                await connection.invalidate()
            await connection.close()


def _remember_error(context: ExceptionContext) -> None:
    if context.connection is not None and not context.is_disconnect:
        context.connection.info[_FAILED] = True


def _forget_error(connection: Connection) -> None:
    if not connection.invalidated:  # a lost connection has nothing to forget, and refuses to be asked
        connection.info.pop(_FAILED, None)


def _refuse_aborted(connection: Connection) -> None:
    """After an error that was caught without a savepoint, PostgreSQL answers COMMIT by a silent rollback.

    A statement before it makes the server say so; it is sent only where some statement has failed.
    """
    if connection.info.pop(_FAILED, False):
        connection.exec_driver_sql("SELECT 1")
