"""Schedulers on one database: each tick has its effect once, whoever runs it and whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.mediation.behaviors import Next
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.scheduling.claims import AlreadyClaimedError, Claim, TickNotDueError, claim
from cqrs_fastapi.scheduling.job import JobMap
from cqrs_fastapi.scheduling.tick import Tick
from cqrs_fastapi.scheduling.triggers import EPOCH, Every
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from conftest import Cluster, Effect
else:
    Cluster = Effect = Any

pytestmark = pytest.mark.anyio

OFTEN = timedelta(milliseconds=200)
DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def ran_at(cluster: Cluster, job: str, tick: datetime, status: str = "done") -> Any:
    """A run of the past, as a row."""
    row = {"job": job, "tick": tick, "owner": "x", "status": status, "started_at": tick, "finished_at": tick}
    return lambda connection: connection.execute(insert(cluster.database.tables.job_runs), row)


def nobody_holds_anything(cluster: Cluster) -> Any:
    """Time passes: all leases have run out."""
    return lambda connection: connection.execute(delete(cluster.database.tables.leases))


async def test_two_schedulers_commit_the_effect_of_each_tick_once(cluster: Cluster, write_effect: Effect) -> None:
    jobs = JobMap()

    @jobs.job(every=OFTEN, name="often")
    async def work(tick: Tick, session: AsyncSession) -> None:
        await write_effect(session, tick.scheduled_at)

    first, second = await cluster.scheduler(jobs), await cluster.scheduler(jobs, alone=False)

    async def enough() -> bool:
        return len(await cluster.effects()) >= 6

    async with cluster.running(first):
        await asyncio.sleep(0.07)  # the second one starts between two ticks, and must still find the same ones
        async with cluster.running(second):
            await cluster.until(enough)

    effects = await cluster.effects()
    assert set(Counter(effects).values()) == {1}
    assert effects == sorted(effects)
    assert all((datetime.fromisoformat(tick) - EPOCH) % OFTEN == timedelta(0) for tick in effects)
    done = [run.tick.isoformat() for run in await cluster.runs("often") if run.status == "done"]
    assert done == effects
    assert first.counts["often"].done + second.counts["often"].done == len(effects)


async def test_of_two_runs_of_one_tick_one_commits_even_without_the_lease(
    cluster: Cluster,
) -> None:
    jobs, inside, go_on = JobMap(), asyncio.Semaphore(0), asyncio.Event()

    @jobs.job(at=LONG_AGO, name="once")
    async def work(tick: Tick, unit: UnitOfWork) -> None:
        inside.release()
        await go_on.wait()
        unit.join(lambda connection: _insert_effect(connection, tick))

    first, second = await cluster.scheduler(jobs), await cluster.scheduler(jobs, alone=False)
    async with cluster.running(first):
        await inside.acquire()
        await cluster.database.write(nobody_holds_anything(cluster))
        async with cluster.running(second):
            await inside.acquire()  # both are in the body of the same tick now
            go_on.set()

    assert await cluster.effects() == [LONG_AGO.isoformat()]
    assert [run.status for run in await cluster.runs("once")] == ["done"]
    assert first.counts["once"].failed + second.counts["once"].failed == 0


def _insert_effect(connection: Connection, tick: Tick) -> None:
    connection.exec_driver_sql(f"INSERT INTO effects (tick) VALUES ('{tick.scheduled_at.isoformat()}')")  # noqa: S608  # a time of ours


async def test_while_one_scheduler_works_on_a_tick_another_one_leaves_it_alone(cluster: Cluster) -> None:
    jobs, bodies, go_on = JobMap(), [], asyncio.Event()

    @jobs.job(at=LONG_AGO, name="once")
    async def work(tick: Tick) -> None:
        bodies.append(tick)
        await go_on.wait()

    first, second = await cluster.scheduler(jobs), await cluster.scheduler(jobs, alone=False)
    async with cluster.running(first, second):
        await asyncio.sleep(0.3)
        go_on.set()

    assert len(bodies) == 1
    assert [run.status for run in await cluster.runs("once")] == ["done"]


async def test_a_failed_run_leaves_its_error_and_no_effect_and_is_not_repeated(
    cluster: Cluster, write_effect: Effect
) -> None:
    jobs, attempts = JobMap(), []

    @jobs.job(at=LONG_AGO, name="breaks")
    async def work(tick: Tick, session: AsyncSession) -> None:
        attempts.append(tick)
        await write_effect(session, tick.scheduled_at)
        raise ValueError("the \x00 shelf is empty")

    async def recorded() -> object:
        return await cluster.runs("breaks")

    first = await cluster.scheduler(jobs)
    async with cluster.running(first):
        await cluster.until(recorded)
    async with cluster.running(await cluster.scheduler(jobs, alone=False)):
        await asyncio.sleep(0.2)

    (run,) = await cluster.runs("breaks")
    assert (run.status, run.tick, run.error) == ("failed", LONG_AGO, "ValueError: the \\x00 shelf is empty")
    assert run.finished_at is not None
    assert await cluster.effects() == []
    assert len(attempts) == 1
    assert first.counts["breaks"].failed == 1


async def test_a_failing_job_goes_on_ticking_and_stops_nobody_else(cluster: Cluster, write_effect: Effect) -> None:
    jobs = JobMap()

    @jobs.job(every=OFTEN, name="breaks")
    async def breaks(tick: Tick) -> None:
        raise asyncio.CancelledError  # even what looks like a cancellation

    @jobs.job(every=OFTEN, name="works")
    async def works(tick: Tick, session: AsyncSession) -> None:
        await write_effect(session, tick.scheduled_at)

    async def both() -> bool:
        failed = [run for run in await cluster.runs("breaks") if run.status == "failed"]
        return len(failed) >= 2 and len(await cluster.effects()) >= 2

    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(both)


async def test_a_database_that_was_away_is_no_failure_of_the_job(cluster: Cluster, write_effect: Effect) -> None:
    jobs, attempts = JobMap(), []

    @jobs.job(at=LONG_AGO, name="once")
    async def work(tick: Tick, session: AsyncSession) -> None:
        attempts.append(tick)
        if len(attempts) < 3:
            raise UnavailableError("the database does not answer")
        await write_effect(session, tick.scheduled_at)

    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(cluster.effects)

    assert [run.status for run in await cluster.runs("once")] == ["done"]


async def test_a_new_job_waits_for_its_next_tick(cluster: Cluster, write_effect: Effect) -> None:
    jobs = JobMap()

    @jobs.job(every=DAY, name="daily")
    async def work(tick: Tick, session: AsyncSession) -> None:
        await write_effect(session, tick.scheduled_at)

    async def seen() -> object:
        return await cluster.runs("daily")

    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(seen)

    assert [run.status for run in await cluster.runs("daily")] == ["skipped"]
    assert await cluster.effects() == []


async def test_immediately_counts_the_tick_before_the_first_start_and_no_start_after_it(
    cluster: Cluster, write_effect: Effect
) -> None:
    jobs = JobMap()

    @jobs.job(every=DAY * 7, name="weekly", immediately=True)
    async def work(tick: Tick, session: AsyncSession) -> None:
        await write_effect(session, tick.scheduled_at)

    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(cluster.effects)
    async with cluster.running(await cluster.scheduler(jobs, alone=False)):
        await asyncio.sleep(0.2)

    week = Every(DAY * 7).latest(datetime.now(UTC))
    assert week is not None
    assert await cluster.effects() == [week.isoformat()]


async def test_of_the_ticks_missed_while_nobody_ran_the_latest_is_made_up_for(
    cluster: Cluster, write_effect: Effect
) -> None:
    jobs, ticks = JobMap(), []

    @jobs.job(every=DAY * 7, name="weekly")
    async def work(tick: Tick, session: AsyncSession) -> None:
        ticks.append(tick)
        await write_effect(session, tick.scheduled_at)

    last_done = EPOCH + DAY * 7 * 2000
    await cluster.database.write(ran_at(cluster, "weekly", last_done))
    await cluster.database.write(ran_at(cluster, "weekly", last_done + DAY * 7, "failed"))
    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(cluster.effects)

    (tick,) = ticks
    assert tick.scheduled_at == Every(DAY * 7).latest(tick.fired_at)
    assert tick.previous == last_done


async def test_stopping_lets_a_run_finish_and_begins_no_new_one(cluster: Cluster, write_effect: Effect) -> None:
    jobs, inside, go_on = JobMap(), asyncio.Event(), asyncio.Event()

    @jobs.job(every=OFTEN, name="slow", immediately=True)
    async def work(tick: Tick, session: AsyncSession) -> None:
        inside.set()
        await go_on.wait()
        await write_effect(session, tick.scheduled_at)

    async with cluster.running(await cluster.scheduler(jobs)) as stop:
        await inside.wait()
        stop.set()
        await asyncio.sleep(0.3)
        assert await cluster.effects() == []
        go_on.set()

    assert len(await cluster.effects()) == 1


async def test_a_tick_that_a_behavior_answered_is_settled_without_its_handler(cluster: Cluster) -> None:
    asked: list[object] = []

    async def switched_off(message: object, call_next: Next, /) -> object:
        asked.append(message)
        return None

    jobs = JobMap(behaviors=[switched_off])

    @jobs.job(at=LONG_AGO, name="off")
    async def work(tick: Tick) -> None:
        raise AssertionError("the behavior should have kept this from running")

    async def settled() -> object:
        return await cluster.runs("off")

    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(settled)
        await asyncio.sleep(0.1)

    assert [run.status for run in await cluster.runs("off")] == ["skipped"]
    assert len(asked) == 1


async def test_a_tick_begins_a_conversation_of_its_own(cluster: Cluster) -> None:
    jobs, seen = JobMap(), []

    @jobs.job(at=LONG_AGO, name="once")
    async def work(tick: Tick) -> None:
        seen.append((tick, Metadata.current()))

    async def settled() -> object:
        return await cluster.runs("once")

    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(settled)

    ((tick, metadata),) = seen
    assert metadata.correlation_id == str(metadata.message_id)
    assert metadata.causation_id is None
    assert metadata.time == tick.fired_at


async def test_a_tick_is_claimed_once_and_not_before_the_database_says_it_is_time(cluster: Cluster) -> None:
    tables, now = cluster.database.tables, datetime.now(UTC)
    owner = (await cluster.scheduler(JobMap())).kernel.ids()

    def attempt(tick: datetime) -> Any:
        return lambda connection: claim(connection, tables, Claim("job", tick, owner, now))

    await cluster.database.write(attempt(LONG_AGO))
    with pytest.raises(AlreadyClaimedError):
        await cluster.database.write(attempt(LONG_AGO))
    with pytest.raises(TickNotDueError):
        await cluster.database.write(attempt(now + timedelta(hours=1)))

    assert [(run.tick, run.status) for run in await cluster.runs("job")] == [(LONG_AGO, "done")]


async def test_the_tick_of_a_crashed_run_is_taken_over_when_its_lease_has_run_out(
    cluster: Cluster, write_effect: Effect
) -> None:
    jobs = JobMap()

    @jobs.job(at=LONG_AGO, name="once")
    async def work(tick: Tick, session: AsyncSession) -> None:
        await write_effect(session, tick.scheduled_at)

    leases = cluster.database.tables.leases
    far = datetime.now(UTC) + DAY
    lease = {"name": "job:once", "owner": uuid4(), "epoch": 1, "expires_at": far}
    await cluster.database.write(lambda connection: connection.execute(insert(leases), lease))
    async with cluster.running(await cluster.scheduler(jobs)):
        await asyncio.sleep(0.2)
        assert await cluster.effects() == []
        await cluster.database.write(
            lambda connection: connection.execute(update(leases).values(expires_at=LONG_AGO)),
        )
        await cluster.until(cluster.effects)
