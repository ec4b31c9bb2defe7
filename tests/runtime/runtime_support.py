"""What the tests of the assembled application share: a small domain, waiting, and a look at what is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select

from cqrs_fastapi import CQRS, Command, Event, Settings
from cqrs_fastapi.migrations import upgrade


class Noted(Event, topic="notes"):
    text: str


class Note(Command[str]):
    text: str


def settings_for(url: str, **changed: Any) -> Settings:
    """Short pauses, so that a test does not wait for them."""
    quick: dict[str, Any] = {
        "service": "tests",
        "relay_poll": timedelta(milliseconds=100),
        "retry_backoff": timedelta(milliseconds=10),
        "drain_timeout": timedelta(seconds=3),
    }
    return Settings(database_url=url, **{**quick, **changed})


async def prepare(cqrs: CQRS) -> None:
    """The schema of a PostgreSQL database; a SQLite file makes its own."""
    if cqrs.database.dialect == "postgresql":
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
        await cqrs.database.close()


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20) -> None:
    """Wait for something that must happen; TimeoutError if it does not."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.02)


async def rows(cqrs: CQRS, table: str) -> int:
    """How many rows one of the framework's tables has."""
    wanted = getattr(cqrs.database.tables, table)
    return await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(wanted)).scalar_one())


async def outbox_is_empty(cqrs: CQRS) -> bool:
    return await rows(cqrs, "outbox") == 0


class Leftovers:
    """Tasks and threads that were not there when this was made. The loop's own executor keeps its threads."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())

    def tasks(self) -> set[str]:
        return {repr(task) for task in asyncio.all_tasks() - self._tasks}

    def threads(self) -> set[str]:
        new = set(threading.enumerate()) - self._threads
        return {thread.name for thread in new if not thread.name.startswith("asyncio_")}
