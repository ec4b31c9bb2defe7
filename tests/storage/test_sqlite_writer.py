"""Groups of writes: one commit for all, an outcome for each."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, select

from cqrs_fastapi.errors import ConfigurationError, NotRunningError, UnavailableError
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

Work = Callable[[Connection], object]


def add(name: str) -> Work:
    def work(connection: Connection) -> str:
        insert = "INSERT INTO cqrs_streams (tenant, stream, category, version) VALUES ('', ?, 'account', 0)"
        connection.exec_driver_sql(insert, (name,))
        return name

    return work


def statement(sql: str) -> Work:
    return lambda connection: connection.exec_driver_sql(sql) and None


async def names(database: Database) -> list[str]:
    column = database.tables.streams.c.stream
    return await database.read(lambda connection: list(connection.execute(select(column).order_by(column)).scalars()))


async def group(
    database: Database, *works: Work, while_waiting: Callable[[list[asyncio.Task[object]]], None]
) -> list[object]:
    """Holds the writer back until all works wait, so that they are one group. Answers results and errors."""
    taken, go = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        taken.set()
        go.wait()

    held = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(taken.wait)
    tasks = [asyncio.create_task(database.write(work)) for work in works]
    await asyncio.sleep(0)  # each task hands its work over
    while_waiting(tasks)
    await asyncio.sleep(0)  # a cancelled one gives up its future
    go.set()
    await held
    return await asyncio.gather(*tasks, return_exceptions=True)


def nothing(_: list[asyncio.Task[object]]) -> None: ...


async def test_one_failing_work_does_not_harm_the_others_of_its_group(sqlite: Database) -> None:
    def fail(connection: Connection) -> None:
        add("c")(connection)
        raise LookupError("no")

    outcomes = await group(sqlite, add("a"), fail, add("b"), while_waiting=nothing)
    assert [str(outcome) for outcome in outcomes] == ["a", "no", "b"]
    assert await names(sqlite) == ["a", "b"]


async def test_a_failing_statement_fails_its_own_work_only(sqlite: Database) -> None:
    outcomes = await group(sqlite, add("a"), add("a"), add("b"), while_waiting=nothing)
    assert [type(outcome).__name__ for outcome in outcomes] == ["str", "IntegrityError", "str"]
    assert await names(sqlite) == ["a", "b"]


async def test_a_work_sees_what_the_one_before_it_wrote(sqlite: Database) -> None:
    seen = select(sqlite.tables.streams.c.stream)
    outcomes = await group(
        sqlite, add("a"), lambda connection: connection.execute(seen).scalar_one(), while_waiting=nothing
    )
    assert outcomes == ["a", "a"]


async def test_a_write_cancelled_before_it_was_taken_is_not_made(sqlite: Database) -> None:
    outcomes = await group(sqlite, add("a"), add("b"), while_waiting=lambda tasks: assert_cancelled(tasks[0]))
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert await names(sqlite) == ["b"]


def assert_cancelled(task: asyncio.Task[object]) -> None:
    assert task.cancel()


async def test_a_write_cancelled_after_it_was_taken_is_made_all_the_same(sqlite: Database) -> None:
    taken, go = threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        taken.set()
        go.wait()
        add("a")(connection)

    writing = asyncio.create_task(sqlite.write(work))
    await asyncio.to_thread(taken.wait)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    go.set()
    await sqlite.write(add("b"))
    assert await names(sqlite) == ["a", "b"]


async def test_a_work_that_ends_the_transaction_does_not_take_the_others_with_it(sqlite: Database) -> None:
    # As SQLite itself does on a full disk: the whole transaction is gone when the statement returns.
    outcomes = await group(sqlite, add("a"), statement("ROLLBACK"), add("b"), while_waiting=nothing)
    assert [outcomes[0], outcomes[2]] == ["a", "b"]
    assert await names(sqlite) == ["a", "b"]


async def test_a_commit_that_one_work_makes_impossible_fails_that_work_alone(sqlite: Database) -> None:
    await sqlite.write(statement("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
    reference = "REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED"
    await sqlite.write(statement(f"CREATE TABLE child (id INTEGER {reference})"))
    outcomes = await group(sqlite, add("a"), statement("INSERT INTO child VALUES (7)"), add("b"), while_waiting=nothing)
    assert [type(outcome).__name__ for outcome in outcomes] == ["str", "IntegrityError", "str"]
    assert await names(sqlite) == ["a", "b"]


async def test_a_full_disk_fails_all_and_writes_nothing_and_later_writes_succeed(sqlite: Database) -> None:
    pages = await sqlite.write(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    await sqlite.write(statement(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(UnavailableError, match="full"):
        await sqlite.write(statement("CREATE TABLE big AS SELECT zeroblob(1000000) AS bytes"))
    await sqlite.write(statement("PRAGMA max_page_count=100000"))
    await sqlite.write(add("a"))
    assert await names(sqlite) == ["a"]


async def test_a_file_locked_by_another_process_is_unavailable_and_nothing_is_written(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite.write(statement("PRAGMA busy_timeout=50"))
    other = sqlite3.connect(sqlite.engine.url.database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(sqlite.write(add("a")), sqlite.write(add("b")), return_exceptions=True)
    other.execute("ROLLBACK")
    other.close()
    assert [type(outcome) for outcome in outcomes] == [UnavailableError, UnavailableError]
    assert await names(sqlite) == []


async def test_a_work_may_not_commit(sqlite: Database) -> None:
    def commits(connection: Connection) -> None:
        add("a")(connection)
        connection.commit()

    outcomes = await group(sqlite, commits, add("b"), while_waiting=nothing)
    assert [type(outcome) for outcome in outcomes] == [ConfigurationError, str]
    assert await names(sqlite) == ["b"]
    await sqlite.write(add("c"))
    assert await names(sqlite) == ["b", "c"]


async def test_a_stop_iteration_reaches_the_caller_as_an_error(sqlite: Database) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await sqlite.write(lambda _: next(iter(())))


async def test_a_savepoint_left_open_is_undone_and_harms_nobody(sqlite: Database) -> None:
    def leaves_open(connection: Connection) -> None:
        connection.begin_nested()
        add("a")(connection)

    await group(sqlite, leaves_open, add("b"), while_waiting=nothing)
    await sqlite.write(add("c"))
    assert await names(sqlite) == ["b", "c"]


async def test_closing_commits_what_waits_and_refuses_what_comes_later(sqlite: Database) -> None:
    writes = [asyncio.create_task(sqlite.write(add(f"{number:03}"))) for number in range(300)]
    await asyncio.sleep(0)
    await sqlite.close()
    assert len(await asyncio.gather(*writes)) == 300
    with pytest.raises(NotRunningError):
        await sqlite.write(add("late"))
    await sqlite.open()
    assert len(await names(sqlite)) == 300
