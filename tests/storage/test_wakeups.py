"""Processes tell each other of commits; what is lost on the way costs time and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import text

from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import wakeups as module
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.wakeups import Wakeups

pytestmark = pytest.mark.anyio


class Process:
    """What one process would have: a database, and how often it was woken."""

    def __init__(self, url: str, **settings: object) -> None:
        self.woken = 0
        self.database = Database(Settings(database_url=url, **settings))  # type: ignore[arg-type]  # as given
        self.wakeups = Wakeups(self.database, self._wake)

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
async def processes(postgres_url: str) -> AsyncIterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(**settings: object) -> Process:
        made.append(Process(postgres_url, **settings))
        made[-1].wakeups.open()
        return made[-1]

    yield make
    for process in made:
        await process.wakeups.close()
        await process.database.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_process_is_woken_by_the_commits_of_others_and_not_by_its_own(
    processes: Callable[..., Process],
) -> None:
    one, other = processes(), processes()
    await until(lambda: one.wakeups.hears and other.wakeups.hears)
    before = (one.woken, other.woken)
    one.wakeups.tell()
    await until(lambda: other.woken > before[1])
    assert one.woken == before[0]


async def test_many_commits_are_told_by_few_notifications(processes: Callable[..., Process]) -> None:
    one, other = processes(), processes()
    await until(lambda: one.wakeups.hears and other.wakeups.hears)
    before = other.woken
    for _ in range(200):
        one.wakeups.tell()
        await asyncio.sleep(0.001)
    await until(lambda: other.woken > before)
    assert other.woken - before <= 60


async def test_other_names_of_tables_are_other_processes(processes: Callable[..., Process]) -> None:
    one, stranger, other = processes(), processes(table_prefix="shop_"), processes()
    await until(lambda: one.wakeups.hears and stranger.wakeups.hears and other.wakeups.hears)
    before = (stranger.woken, other.woken)
    one.wakeups.tell()
    await until(lambda: other.woken > before[1])
    assert stranger.woken == before[0]


async def test_a_lost_connection_is_noticed_and_what_was_missed_is_looked_for(
    processes: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.05)
    one, other = processes(), processes()
    await until(lambda: one.wakeups.hears and other.wakeups.hears)
    before = other.woken
    cut = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE query LIKE '%LISTEN%' AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    await one.database.write(lambda connection: connection.execute(cut) and None)
    await until(lambda: other.woken > before and other.wakeups.hears and one.wakeups.hears)
    before = other.woken
    one.wakeups.tell()
    await until(lambda: other.woken > before)


async def test_the_last_commit_before_the_end_is_told(processes: Callable[..., Process]) -> None:
    one, other = processes(), processes()
    await until(lambda: one.wakeups.hears and other.wakeups.hears)
    before = other.woken
    one.wakeups.tell()
    await one.wakeups.close()
    await until(lambda: other.woken > before)


async def test_on_sqlite_nothing_is_told_and_nobody_believes_to_hear(sqlite_url: str) -> None:
    process = Process(sqlite_url)
    process.wakeups.open()
    process.wakeups.tell()
    assert not process.wakeups.hears
    await process.wakeups.close()
