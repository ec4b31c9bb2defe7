"""A few statements in the event loop's own thread: the same promises as by the writer's thread."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from cqrs_fastapi.errors import NotRunningError, ReadOnlyError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    database = Database(Settings(database_url=sqlite_url))
    await database.open()
    yield database
    await database.close()


def adding(database: Database, key: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        row = {"projection": key, "partition": "0", "position": 1, "updated_at": NOW}
        connection.execute(insert(database.tables.checkpoints), row)
        return key

    return work


async def keys(database: Database) -> list[str]:
    query = select(database.tables.checkpoints.c.projection)
    return sorted(await database.read(lambda connection: connection.execute(query).scalars().all()))


async def test_what_waits_together_is_committed_together_and_each_has_its_own_outcome(database: Database) -> None:
    await database.write_few(adding(database, "twice"))
    writes = [database.write_few(adding(database, key)) for key in ("a", "twice", "b")]
    a, twice, b = await asyncio.gather(*writes, return_exceptions=True)

    assert (a, b) == ("a", "b")
    assert isinstance(twice, IntegrityError)
    assert await keys(database) == ["a", "b", "twice"]


async def test_a_work_that_ends_the_transaction_harms_nobody_else(database: Database) -> None:
    def ending(connection: Connection) -> None:
        connection.connection.rollback()

    outcomes = await asyncio.gather(
        database.write_few(adding(database, "a")),
        database.write_few(ending),
        database.write_few(adding(database, "b")),
        return_exceptions=True,
    )

    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert await keys(database) == ["a", "b"]


async def test_another_process_that_writes_is_waited_for_without_holding_the_event_loop(
    database: Database, sqlite_url: str
) -> None:
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(database.write_few(adding(database, "a")))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not writing.done()
    other.execute("COMMIT")
    other.close()

    assert await writing == "a"
    assert await keys(database) == ["a"]


async def test_a_caller_that_left_before_its_turn_writes_nothing(database: Database) -> None:
    async with database.session() as session:
        await session.execute(select(database.tables.checkpoints))  # it has the turn from here on
        left = asyncio.create_task(database.write_few(adding(database, "left")))
        stayed = asyncio.create_task(database.write_few(adding(database, "stayed")))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
    assert await stayed == "stayed"

    assert await keys(database) == ["stayed"]


async def test_both_ways_of_writing_and_sessions_take_turns(database: Database) -> None:
    async def by_session(key: str) -> None:
        async with database.session() as session:
            await database.run(session, adding(database, key))
            await session.commit()

    await asyncio.gather(
        *(database.write_few(adding(database, f"few-{number}")) for number in range(40)),
        *(database.write(adding(database, f"thread-{number}")) for number in range(40)),
        *(by_session(f"session-{number}") for number in range(20)),
    )

    assert len(await keys(database)) == 100


async def test_closing_commits_what_waits(sqlite_url: str) -> None:
    database = Database(Settings(database_url=sqlite_url))
    await database.open()
    waiting = [asyncio.create_task(database.write_few(adding(database, f"{number}"))) for number in range(50)]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*waiting) == [f"{number}" for number in range(50)]

    with pytest.raises(NotRunningError):
        await database.write_few(adding(database, "late"))
    await database.open()
    assert len(await keys(database)) == 50
    await database.close()


async def test_a_few_rows_are_read_here_and_nothing_is_written(database: Database) -> None:
    await database.write_few(adding(database, "a"))
    query = select(database.tables.checkpoints.c.projection)

    assert await database.read_few(lambda connection: connection.execute(query).scalars().all()) == ["a"]
    with pytest.raises(ReadOnlyError):
        await database.read_few(adding(database, "b"))
    assert await keys(database) == ["a"]
