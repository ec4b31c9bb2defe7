"""Tells other processes on the same PostgreSQL database that something was committed. A hint: polling stays the truth.

A NOTIFY in the writing transaction costs concurrent writers two thirds of their rate. So it is sent afterwards, by a
task and a connection of their own, one for all commits of some milliseconds. It may be lost, with its process or its
connection, and then the next poll finds what it would have told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.driver_errors import before_commit

log = structlog.get_logger("cqrs_fastapi")

GAP = 0.01
"""Seconds between two notifications: commits in between are told together."""
CHECKED_EVERY = 10.0
"""Seconds after which a quiet connection is asked whether it is still one."""
_ANSWER_SECONDS = 2.0
_AGAIN = 1.0
_TELL = "SELECT pg_notify($1, '')"


class Wakeups:
    """`tell` after a commit; `heard` is called for the commits of other processes, and after each reconnection, since
    what was told meanwhile was not heard. On SQLite it does nothing.
    """

    def __init__(self, database: Database, heard: Callable[[], None]) -> None:
        self._database = database
        self._heard = heard
        outbox = database.tables.outbox
        self._channel = f"{outbox.schema or ''}.{outbox.name.removesuffix('outbox')}commits"
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._hears = False
        self._own = 0

    @property
    def hears(self) -> bool:
        """Whether commits of other processes are heard now, as far as this process can know."""
        return self._hears

    def tell(self) -> None:
        """Something was committed. Returns at once."""
        self._told.set()

    def open(self) -> None:
        """Begin to listen; a database that is away is waited for."""
        if self._database.dialect == "postgresql" and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_listening(), name="cqrs:wakeups")

    async def close(self) -> None:
        """Stop, and tell what was not told yet."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _keep_listening(self) -> None:
        while True:
            try:
                with before_commit():
                    await self._listen()
            except (CqrsError, SQLAlchemyError, OSError) as error:
                log.warning("wakeups_lost", error=str(error))
            finally:
                if self._hears:
                    self._hears = False
                    self._heard()  # whoever waits for long must now look for himself
            await asyncio.sleep(_AGAIN)

    async def _listen(self) -> None:
        """Until the connection is lost."""
        async with self._database.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            # It is not the pool's any more: it would be given to somebody who asks for a short statement.
            await connection.run_sync(Connection.detach)
            driver.add_termination_listener(lambda _: self._told.set())
            try:
                self._own = driver.get_server_pid()
                await driver.add_listener(self._channel, self._on_notification)
                self._hears = True
                self._heard()
                await self._tell_on(driver)
            finally:
                driver.terminate()

    async def _tell_on(self, driver: Any) -> None:
        try:
            while not driver.is_closed():
                if await self._is_told():
                    await self._tell(driver)
                    await asyncio.sleep(GAP)
                else:
                    await driver.execute("SELECT 1", timeout=_ANSWER_SECONDS)
        finally:
            if self._told.is_set() and not driver.is_closed():
                await self._tell(driver)

    async def _tell(self, driver: Any) -> None:
        self._told.clear()
        if not driver.is_closed():
            await driver.execute(_TELL, self._channel, timeout=_ANSWER_SECONDS)

    async def _is_told(self) -> bool:
        """False if nothing happens for a while."""
        try:
            async with asyncio.timeout(CHECKED_EVERY):
                return await self._told.wait()
        except TimeoutError:
            return False

    def _on_notification(self, _connection: object, process: int, _channel: str, _payload: str) -> None:
        if process != self._own:  # this process was told of its own commits directly
            self._heard()
