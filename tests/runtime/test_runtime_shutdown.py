"""A stop lets work finish, is bounded in time, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from runtime_support import Leftovers, Note, Noted, outbox_is_empty, prepare, rows, settings_for, until
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Command, Tick, UnitOfWork
from cqrs_fastapi.errors import NotRunningError

pytestmark = pytest.mark.anyio

lines = Table("lines", MetaData(), Column("n", Integer, primary_key=True), Column("text", String))


class Write(Command[None]):
    text: str


class Steps:
    """Where handlers are, and when they may go on."""

    def __init__(self) -> None:
        self.entered, self.release = asyncio.Event(), asyncio.Event()
        self.before_return: Callable[[UnitOfWork], Any] = lambda _: None


def assembled(url: str, steps: Steps, **changed: Any) -> CQRS:
    cqrs = CQRS(settings=settings_for(url, **changed))
    cqrs.register(Noted)

    @cqrs.handles(Note)
    async def note(command: Note, unit: UnitOfWork) -> str:
        unit.publish(Noted(text=command.text))
        return command.text

    @cqrs.handles(Write)
    async def write(command: Write, session: AsyncSession, unit: UnitOfWork) -> None:
        await session.execute(insert(lines).values(text=command.text))
        steps.entered.set()
        await steps.release.wait()
        steps.before_return(unit)

    @cqrs.on(Noted, name="reader")
    async def read(event: Noted, session: AsyncSession) -> None:
        await session.execute(insert(lines).values(text=event.text))
        if event.text == "slow":
            steps.entered.set()
            await steps.release.wait()

    @cqrs.job(every=timedelta(seconds=1), name="ticker")
    async def tick(tick: Tick, session: AsyncSession) -> None:
        await session.execute(select(1))

    return cqrs


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
async def url(database_url: str, steps: Steps) -> str:
    """A database with the schema and the handlers' table."""
    cqrs = assembled(database_url, steps)
    await prepare(cqrs)
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(lines.create)
    await cqrs.database.close()
    return database_url


async def written(cqrs: CQRS) -> list[str]:
    async with cqrs.database.engine.connect() as connection:
        found = list((await connection.execute(select(lines.c.text).order_by(lines.c.n))).scalars())
    await cqrs.database.close()
    return found


async def test_units_of_work_and_messages_under_way_are_committed(url: str, steps: Steps) -> None:
    cqrs = assembled(url, steps)
    async with cqrs.running():
        await cqrs.mediator.send(Note(text="slow"))
        await steps.entered.wait()
        asyncio.get_running_loop().call_later(0.2, steps.release.set)
    assert await written(cqrs) == ["slow"]

    steps.entered.clear()
    steps.release.clear()
    async with cqrs.running():
        writing = asyncio.create_task(cqrs.mediator.send(Write(text="w")))
        await steps.entered.wait()
        asyncio.get_running_loop().call_later(0.2, steps.release.set)
    await writing
    assert await written(cqrs) == ["slow", "w"]
    async with cqrs.running(workers=()):
        assert await rows(cqrs, "dead_letters") == 0


async def test_nothing_is_left_after_a_run_with_work(url: str, steps: Steps) -> None:
    cqrs = assembled(url, steps)
    before = Leftovers()
    async with cqrs.running():
        for number in range(5):
            await cqrs.mediator.send(Note(text=str(number)))
        await cqrs.readiness()
        await until(lambda: outbox_is_empty(cqrs))
    assert before.tasks() == set()
    await until(lambda: before.threads() == set())  # a driver's thread says that it ends before it has ended
    pool: Any = cqrs.database.engine.pool
    assert (pool.checkedin(), pool.checkedout()) == (0, 0)
    async with cqrs.running(workers=()):
        leases = cqrs.database.tables.leases
        held = select(func.count()).select_from(leases).where(leases.c.owner.is_not(None))
        assert await cqrs.database.read(lambda c: c.execute(held).scalar_one()) == 0


async def test_a_stuck_handler_is_given_up_in_time_and_its_message_is_handled_by_the_next_start(
    url: str, steps: Steps
) -> None:
    cqrs = assembled(url, steps, drain_timeout=timedelta(seconds=0.5))
    before = Leftovers()
    await cqrs.open()
    await cqrs.start_workers()
    await cqrs.mediator.send(Note(text="slow"))
    await steps.entered.wait()
    async with asyncio.timeout(0.5 + 1 + 1 + 8):  # the drain, what was cancelled, and a slow machine
        await cqrs.stop_workers()
        await cqrs.close()
    assert before.tasks() == set()
    await until(lambda: before.threads() == set())  # a driver's thread says that it ends before it has ended
    assert await written(cqrs) == []

    steps.release.set()
    async with cqrs.running():
        await until(lambda: outbox_is_empty(cqrs))
    assert await written(cqrs) == ["slow"]


async def test_a_stuck_command_is_rolled_back_when_the_time_is_over(url: str, steps: Steps) -> None:
    cqrs = assembled(url, steps, drain_timeout=timedelta(seconds=0.5))
    before = Leftovers()
    async with cqrs.running():
        writing = asyncio.create_task(cqrs.mediator.send(Write(text="stuck")))
        await steps.entered.wait()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert before.tasks() == set()
    await until(lambda: before.threads() == set())  # a driver's thread says that it ends before it has ended
    assert cqrs.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool
    assert await written(cqrs) == []


async def test_a_caller_who_leaves_a_scope_during_its_commit_breaks_nothing(url: str, steps: Steps) -> None:
    cqrs = assembled(url, steps)
    steps.release.set()
    async with cqrs.running(workers=()):

        def leave(_: Connection) -> None:
            caller.cancel()

        async def in_scope() -> None:
            async with cqrs.scope() as scope:
                steps.before_return = lambda unit: unit.join(leave)
                await scope.send(Write(text="kept"))

        caller = asyncio.create_task(in_scope())
        with pytest.raises(asyncio.CancelledError):
            await caller
        await cqrs.stop_workers()
        pool: Any = cqrs.database.engine.pool
        assert pool.checkedout() == 0
    assert await written(cqrs) == ["kept"]


async def test_after_the_close_the_application_says_that_it_is_not_running(sqlite_url: str, steps: Steps) -> None:
    cqrs = assembled(sqlite_url, steps)
    async with cqrs.running(workers=()):
        pass
    with pytest.raises(NotRunningError, match=r"async with cqrs\.running"):
        await cqrs.mediator.send(Note(text="late"))
    await cqrs.stop_workers()
    await cqrs.close()
