"""The worker that runs periodic jobs. Any number of them may run on one database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.scheduling.alarms import Alarms
from cqrs_fastapi.scheduling.firing import Firing, JobCounts, Surroundings
from cqrs_fastapi.scheduling.job import Job
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

log = structlog.get_logger("cqrs_fastapi")


@dataclass(slots=True)
class Scheduler:
    """Runs each job at its ticks, which follow from its rule and the database's clock alone.

    The effect of a job in the database is committed once for each tick in the whole cluster, with the row that claims
    the tick; a crash before that leaves the tick to whoever looks next. The body itself may run again after a crash or
    when it takes longer than `command_timeout`. A failed run is recorded, logged and counted, and not repeated; a
    database that is away is waited for. `handlings` are the compiled handlers by the name of their job.
    """

    jobs: Sequence[Job]
    handlings: Mapping[str, Handling]
    kernel: Kernel
    database: Database
    settings: Settings
    name: str = "scheduler"
    counts: dict[str, JobCounts] = field(default_factory=dict)
    """What became of the ticks that ran here, by the name of their job, since this worker was made."""

    async def run(self, stop: asyncio.Event) -> None:
        """Fire until `stop` is set; then runs under way may finish, and no new one begins."""
        alarms = Alarms(self.kernel.ids())
        firings = [self._firing(job, alarms, stop) for job in self.jobs]
        log.info("scheduler_started", owner=str(alarms.owner), jobs=[job.name for job in self.jobs])
        try:
            async with asyncio.TaskGroup() as group:
                for firing in firings:
                    group.create_task(firing.run())
                alarms.start()
                await stop.wait()
                alarms.stop()
                for firing in firings:
                    firing.bell.set()
        finally:
            alarms.stop()

    def _firing(self, job: Job, alarms: Alarms, stop: asyncio.Event) -> Firing:
        around = Surroundings(self.handlings, self.kernel, self.database, self.settings, alarms)
        counts = self.counts.setdefault(job.name, JobCounts())
        firing = Firing(job, around, stop, counts)
        alarms.add(job.name, job.trigger, firing.bell)
        return firing
