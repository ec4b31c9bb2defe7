"""A scheduler that dies in the middle of a commit leaves the tick to the next one."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.scheduling.job import JobMap
from cqrs_fastapi.scheduling.tick import Tick

if TYPE_CHECKING:
    from conftest import Cluster, Effect
else:
    Cluster = Effect = Any

pytestmark = pytest.mark.anyio

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
PROGRAM = """
import os
from datetime import UTC, datetime

from sqlalchemy import text
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.scheduling.tick import Tick
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

cqrs = Application()


def die_after_the_claim(connection):
    rows = connection.execute(text("SELECT count(*) FROM cqrs_job_runs WHERE job = 'once'")).scalar_one()
    connection.execute(text("INSERT INTO effects (tick) VALUES ('crashed')"))
    os._exit(40 + rows)


@cqrs.job(at=datetime(2020, 1, 1, tzinfo=UTC), name="once")
async def work(tick: Tick, unit: UnitOfWork) -> None:
    unit.join(die_after_the_claim)
"""


async def test_a_crash_between_the_claim_and_the_commit_leaves_no_claim(
    cluster: Cluster, write_effect: Effect, tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text(PROGRAM)
    environment = {**os.environ, "CQRS_DATABASE_URL": cluster.settings.database_url, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cqrs_fastapi.cli", "schedule", "dying:cqrs", cwd=tmp_path, env=environment
    )
    assert await process.wait() == 41  # it had seen its own claim

    assert await cluster.runs("once") == []
    assert await cluster.effects() == []
    leases = cluster.database.tables.leases
    query = select(leases.c.name).where(leases.c.owner.is_not(None))
    assert "job:once" in await cluster.database.read(lambda connection: list(connection.execute(query).scalars()))

    jobs = JobMap()

    @jobs.job(at=LONG_AGO, name="once")
    async def work(tick: Tick, session: AsyncSession) -> None:
        await write_effect(session, tick.scheduled_at)

    async with cluster.running(await cluster.scheduler(jobs)):
        expired = update(leases).values(expires_at=LONG_AGO)
        await cluster.database.write(lambda connection: connection.execute(expired).rowcount)
        await cluster.until(cluster.effects)

    assert [(run.tick, run.status) for run in await cluster.runs("once")] == [(LONG_AGO, "done")]
