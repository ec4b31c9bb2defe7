from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import migrations
from cqrs_fastapi.clock import SystemClock
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.identity import Uuid7Factory
from cqrs_fastapi.mediation.compiler import Compiler
from cqrs_fastapi.mediation.injection import Builtin, Injector
from cqrs_fastapi.mediation.kernel import Kernel, UnitLimits
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.scheduling.job import JobMap
from cqrs_fastapi.scheduling.scheduler import Scheduler
from cqrs_fastapi.scheduling.tick import Tick
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.unit_of_work.drafts import Limits
from cqrs_fastapi.unit_of_work.services import Services
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork


@dataclass
class Cluster:
    """Several processes' worth of schedulers on one database."""

    settings: Settings
    database: Database
    resources: AsyncExitStack
    extra: list[Database] = field(default_factory=list)

    async def scheduler(self, jobs: JobMap, *, alone: bool = True) -> Scheduler:
        """A scheduler; one that is not alone has connections of its own, like another process."""
        database = self.database
        if not alone:
            database = Database(self.settings)
            await database.open()
            self.resources.push_async_callback(database.close)
        builtins = {
            AsyncSession: Builtin(lambda scope: scope.unit_of_work.session),
            UnitOfWork: Builtin(lambda scope: scope.unit_of_work),
        }
        injector = Injector(builtins, [], {})
        compiler = Compiler(injector)
        compiled = {job.name: compiler.compile_job(job.handler, Tick, job.behaviors) for job in jobs.jobs()}
        assert injector.problems == []
        services = Services(database, Appender(database), EventRegistry([]), Routing(), Limits(1000, 10), lambda: None)
        kernel = Kernel(
            Uuid7Factory(),
            SystemClock(),
            lambda scope: UnitOfWork(services, scope),
            UnitLimits(30, 5, 100),
            compiler.pipelines,
        )
        compiler.attach(kernel)
        handlings = {name: handling for name, handling in compiled.items() if handling is not None}
        return Scheduler(jobs.jobs(), handlings, kernel, database, self.settings)

    @asynccontextmanager
    async def running(self, *schedulers: Scheduler) -> AsyncIterator[asyncio.Event]:
        """Run them within the block, and stop them at its end."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(scheduler.run(stop)) for scheduler in schedulers]
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def runs(self, job: str) -> list[Any]:
        """The rows of a job, oldest tick first."""
        table = self.database.tables.job_runs
        query = select(table).where(table.c.job == job).order_by(table.c.tick)
        return await self.database.read(lambda connection: list(connection.execute(query)))

    async def effects(self) -> list[str]:
        """The ticks that have had their effect, in the order of the commits."""
        query = text("SELECT tick FROM effects ORDER BY id")
        return await self.database.read(lambda connection: list(connection.execute(query).scalars()))

    async def until(self, met: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(20):
            while not await met():  # a row of a database tells nobody
                await asyncio.sleep(0.02)


def _make_effects(connection: Connection) -> None:
    kind = "SERIAL PRIMARY KEY" if connection.dialect.name == "postgresql" else "INTEGER PRIMARY KEY"
    connection.execute(text(f"CREATE TABLE effects (id {kind}, tick TEXT NOT NULL)"))


async def effect(session: AsyncSession, moment: datetime) -> None:
    await session.execute(text("INSERT INTO effects (tick) VALUES (:tick)"), {"tick": moment.isoformat()})


Effect = Callable[[AsyncSession, datetime], Awaitable[None]]


@pytest.fixture
def write_effect() -> Effect:
    """Writes the one thing that a job of these tests does, in its own transaction."""
    return effect


@pytest.fixture
async def cluster(database_url: str) -> AsyncIterator[Cluster]:
    settings = Settings(database_url=database_url)
    database = Database(settings)
    await database.open()
    if database.dialect == "postgresql":
        await database.write(migrations.upgrade)
    await database.write(_make_effects)
    async with AsyncExitStack() as resources:
        yield Cluster(settings, database, resources)
    await database.close()
