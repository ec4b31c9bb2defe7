"""Makes the ticks of one job happen."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.scheduling import claims
from cqrs_fastapi.scheduling.alarms import Alarms
from cqrs_fastapi.scheduling.claims import AlreadyClaimedError, Claim, Outlook, TickNotDueError
from cqrs_fastapi.scheduling.job import Job
from cqrs_fastapi.scheduling.tick import Tick
from cqrs_fastapi.scheduling.triggers import At
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.leases import Lease, acquire, release

log = structlog.get_logger("cqrs_fastapi")

_SOON = timedelta(milliseconds=250)  # an alarm may be early by this much: what comes so soon is waited for
_LOOK_AT_LEAST_EVERY = 60.0


@dataclass(slots=True)
class JobCounts:
    """What became of the ticks that this process ran."""

    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all jobs of a scheduler share. `handlings` are looked up at each tick, since an override replaces them."""

    handlings: Mapping[str, Handling]
    kernel: Kernel
    database: Database
    settings: Settings
    alarms: Alarms


@dataclass(slots=True)
class Firing:
    """One job in one scheduler. Its ticks run one after the other."""

    job: Job
    around: Surroundings
    stop: asyncio.Event
    counts: JobCounts = field(default_factory=JobCounts)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    _begun: bool = False
    _waits: int = 0
    _failures: int = 0

    async def run(self) -> None:
        """Fire whenever the bell rings, until it is time to stop; a run under way is finished."""
        while not self.stop.is_set():
            self.bell.clear()
            await self.fire()
            await _within(_LOOK_AT_LEAST_EVERY, self.bell)

    async def fire(self) -> None:
        """Return when nobody needs to do anything about the latest tick any more, or when it is time to stop.

        A database that is away is waited for. So is another scheduler that is at work on this job: should it crash,
        the tick is taken over when its lease has run out.
        """
        pause: float | None = 0.0
        while pause is not None and not self.stop.is_set():
            try:
                pause = await self._step()
                self._failures = 0
            except (UnavailableError, UnknownOutcomeError) as error:
                pause = self._after_failure(error)
            if pause:
                await _within(pause, self.stop)

    async def _step(self) -> float | None:
        """Do what can be done now. The seconds until the next look, or None if the alarm will tell."""
        await self._begin()
        outlook = await self._look()
        if outlook.tick is not None and outlook.due:
            lease = None if outlook.held else await self._acquire()
            if lease is None:
                self._waits += 1
                return min(1.0, 0.05 * 2.0 ** min(self._waits, 10))
            await self._run(outlook, outlook.tick, lease)
        self._waits = 0
        following = self.job.trigger.following(outlook.now)
        if outlook.due:
            return 0.0
        return (following - outlook.now).total_seconds() if following and following - outlook.now < _SOON else None

    async def _begin(self) -> None:
        if self._begun or self.job.immediately or isinstance(self.job.trigger, At):
            return
        database, job, owner = self.around.database, self.job, self.around.alarms.owner
        await database.write(lambda connection: claims.begin(connection, database.tables, job.name, job.trigger, owner))
        self._begun = True

    async def _look(self) -> Outlook:
        database, job, alarms = self.around.database, self.job, self.around.alarms
        before = alarms.clock.now()
        outlook = await database.read(
            lambda connection: claims.look(connection, database.tables, job.name, job.trigger, alarms.owner)
        )
        alarms.observe(outlook.now, before)
        return outlook

    async def _acquire(self) -> Lease | None:
        around, name = self.around, claims.lease_name(self.job.name)
        duration, owner = claims.lease_duration(around.settings.command_timeout), around.alarms.owner
        return await around.database.write(lambda c: acquire(c, around.database.tables, name, owner, duration))

    async def _run(self, outlook: Outlook, tick: datetime, lease: Lease) -> None:
        """One attempt. Returns when the tick is settled or not ours; raises if the database is away."""
        run = _Run(self.around, Claim(self.job.name, tick, lease.owner, outlook.now), lease)
        try:
            await run.attempt(Tick(tick, outlook.now, outlook.previous))
        except (UnavailableError, UnknownOutcomeError):
            raise  # nothing was written, or the next look finds out; the lease is kept for the next attempt
        except (AlreadyClaimedError, TickNotDueError) as refused:
            log.info("tick_given_up", job=self.job.name, reason=str(refused))
            await run.release()
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            await self._failed(run, error)
        except Exception as error:  # noqa: BLE001  # whatever a job raises is its failure, recorded and logged
            await self._failed(run, error)
        else:
            self.counts.done += 1
            log.debug("job_done", job=self.job.name, tick=tick.isoformat())

    async def _failed(self, run: _Run, error: BaseException) -> None:
        self.counts.failed += 1
        log.error("job_failed", job=self.job.name, tick=run.claim.tick.isoformat(), exc_info=error)
        await run.settle(claims.FAILED, error)

    def _after_failure(self, error: Exception) -> float:
        """Growing pauses, up to ten seconds; only the first of several failures is logged."""
        self._failures += 1
        if self._failures == 1:
            log.warning("job_waits", job=self.job.name, error=str(error))
        longest = min(10.0, 0.2 * 2.0 ** min(self._failures, 10))
        return longest * self.around.kernel.random.uniform(0.5, 1.0)


@dataclass(slots=True)
class _Run:
    """One attempt at one tick."""

    around: Surroundings
    claim: Claim
    lease: Lease
    claimed: bool = False

    async def attempt(self, tick: Tick) -> None:
        """Handle the tick in a unit of work whose transaction claims it."""
        kernel, message_id = self.around.kernel, self.around.kernel.ids()
        metadata = Metadata(message_id=message_id, correlation_id=str(message_id), time=tick.fired_at)
        await kernel.pipelines.run(self.around.handlings[self.claim.job], tick, metadata, self._guard)
        if not self.claimed:
            # A behavior answered for the handler: without a row this tick would be due again at once.
            await self.settle(claims.SKIPPED, None)

    async def settle(self, status: str, error: BaseException | None) -> None:
        """Record a tick without effect, in a transaction of its own."""
        await self.around.database.write(partial(self._settle, status=status, error=error))

    async def release(self) -> None:
        tables = self.around.database.tables
        await self.around.database.write(lambda connection: release(connection, tables, self.lease))

    async def _guard(self, scope: Scope) -> None:
        scope.unit_of_work.join(self._claim)

    def _claim(self, connection: Connection) -> None:
        tables = self.around.database.tables
        claims.claim(connection, tables, self.claim)
        release(connection, tables, self.lease)
        self.claimed = True

    def _settle(self, connection: Connection, *, status: str, error: BaseException | None) -> None:
        tables = self.around.database.tables
        claims.settle(connection, tables, self.claim, status, error)
        release(connection, tables, self.lease)


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
