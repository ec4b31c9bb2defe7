"""Retention deletes what is old, in bounded transactions, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select

from cqrs_fastapi.scheduling.job import JobMap
from cqrs_fastapi.scheduling.retention import RETENTION_JOB, Deleted, Retention, retention_job
from cqrs_fastapi.scheduling.triggers import Every
from cqrs_fastapi.settings import Settings

if TYPE_CHECKING:
    from conftest import Cluster
else:
    Cluster = Any

pytestmark = pytest.mark.anyio

KEPT_FOR = timedelta(days=14)
COMMON = {"user_id": "", "command": "Pay", "ordinal": 0, "fingerprint": "", "response": "null"}


def inbox_row(age: timedelta) -> dict[str, object]:
    return {"consumer": "mail", "message_id": uuid4(), "status": "done", "received_at": datetime.now(UTC) - age}


def run_row(job: str, age: timedelta, *, finished: bool = True) -> dict[str, object]:
    moment = datetime.now(UTC) - age
    finished_at = moment if finished else None
    return {
        "job": job,
        "tick": moment,
        "owner": "x",
        "status": "done",
        "started_at": moment,
        "finished_at": finished_at,
    }


async def fill(cluster: Cluster, inbox: list[dict[str, object]], runs: list[dict[str, object]]) -> None:
    tables = cluster.database.tables
    if inbox:
        await cluster.database.write(lambda connection: connection.execute(insert(tables.inbox), inbox))
    if runs:
        await cluster.database.write(lambda connection: connection.execute(insert(tables.job_runs), runs))


async def inbox_ids(cluster: Cluster) -> set[UUID]:
    query = select(cluster.database.tables.inbox.c.message_id)
    return set(await cluster.database.read(lambda connection: list(connection.execute(query).scalars())))


async def test_only_what_is_older_than_the_retention_is_deleted(cluster: Cluster) -> None:
    old = [inbox_row(KEPT_FOR + timedelta(minutes=1)) for _ in range(7)]
    young = [inbox_row(KEPT_FOR - timedelta(minutes=1)), inbox_row(timedelta(0))]
    records = cluster.database.tables.idempotency
    aged_runs = [run_row("nightly", KEPT_FOR + timedelta(days=days)) for days in (1, 2, 3)]
    await fill(cluster, old + young, [*aged_runs, run_row("nightly", timedelta(days=1))])

    for number, age in enumerate((KEPT_FOR + timedelta(minutes=1), timedelta(0))):
        row = {"key": f"k-{number}", "created_at": datetime.now(UTC) - age}
        statement = insert(records).values(**COMMON, **row)
        await cluster.database.write(lambda connection, one=statement: connection.execute(one))

    deleted = await Retention(cluster.database, Settings(retention=KEPT_FOR), batch=3).delete_old()

    assert deleted == Deleted(inbox=7, job_runs=3, idempotency=1, more=False)
    assert await cluster.database.read(lambda c: list(c.execute(select(records.c.key)).scalars())) == ["k-1"]
    assert await inbox_ids(cluster) == {row["message_id"] for row in young}
    assert len(await cluster.runs("nightly")) == 1


async def test_the_newest_run_of_a_job_and_unfinished_ones_stay_however_old(cluster: Cluster) -> None:
    years = timedelta(days=2000)
    runs = [run_row("once", years), run_row("weekly", years), run_row("weekly", years + timedelta(days=7))]
    await fill(cluster, [], [*runs, run_row("open", years, finished=False), run_row("open", timedelta(0))])

    deleted = await Retention(cluster.database, Settings(retention=KEPT_FOR)).delete_old()

    assert deleted.job_runs == 1
    assert [len(await cluster.runs(job)) for job in ("once", "weekly", "open")] == [1, 1, 2]


async def test_the_row_of_a_parked_message_stays_as_long_as_its_letter_and_old_counts_go(cluster: Cluster) -> None:
    parked = {**inbox_row(KEPT_FOR * 2), "status": "parked"}
    await fill(cluster, [parked, inbox_row(KEPT_FOR * 2)], [])
    attempts = cluster.database.tables.attempts
    for age in (KEPT_FOR * 2, timedelta(0)):
        row = {"consumer": "mail", "message_id": uuid4(), "count": 2, "counted_at": datetime.now(UTC) - age}
        statement = insert(attempts).values(**row)
        await cluster.database.write(lambda connection, one=statement: connection.execute(one))

    deleted = await Retention(cluster.database, Settings(retention=KEPT_FOR)).delete_old()

    assert (deleted.inbox, deleted.attempts) == (1, 1)
    assert await inbox_ids(cluster) == {parked["message_id"]}


async def test_when_the_time_is_over_the_rest_is_left_for_the_next_tick(cluster: Cluster) -> None:
    await fill(cluster, [inbox_row(KEPT_FOR * 2)], [])
    no_time = Settings(retention=KEPT_FOR, command_timeout=timedelta(0))

    nothing = Deleted(inbox=0, job_runs=0, idempotency=0, more=True)
    assert await Retention(cluster.database, no_time).delete_old() == nothing
    assert len(await inbox_ids(cluster)) == 1


async def test_it_runs_as_a_job_of_every_full_hour(cluster: Cluster) -> None:
    await fill(cluster, [inbox_row(KEPT_FOR * 2)], [run_row(RETENTION_JOB, timedelta(days=1))])
    jobs = JobMap()
    jobs.add(retention_job(cluster.database, cluster.settings))

    async def ran() -> bool:
        return len(await cluster.runs(RETENTION_JOB)) > 1

    async with cluster.running(await cluster.scheduler(jobs)):
        await cluster.until(ran)

    assert await inbox_ids(cluster) == set()
    run = (await cluster.runs(RETENTION_JOB))[-1]
    assert (run.tick, run.status) == (Every(timedelta(hours=1)).latest(run.started_at), "done")
