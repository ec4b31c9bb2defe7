"""Wakes the jobs. APScheduler is the clockwork; what is due is found out from the database afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from cqrs_fastapi.clock import Clock, SystemClock
from cqrs_fastapi.scheduling.triggers import Trigger


@dataclass(slots=True)
class Alarms:
    """Rings bells at ticks, as the database's clock shows them. A bell may ring late or early: whoever hears it looks.

    `owner` is the scheduler's name for itself, new with each start.
    """

    owner: UUID
    clock: Clock = field(default_factory=SystemClock)
    ahead: timedelta = timedelta(0)
    """By how much this process's clock is ahead of the database's."""
    _clockwork: Any = None

    def __post_init__(self) -> None:
        # The jobs are code, so a store in memory is enough; a shared one would ring in one process only.
        self._clockwork = AsyncIOScheduler(
            jobstores={"default": MemoryJobStore()},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )

    def add(self, name: str, trigger: Trigger, bell: asyncio.Event) -> None:
        """Set `bell` at every tick from now on."""

        async def ring() -> None:
            bell.set()

        self._clockwork.add_job(ring, _WakeUp(trigger, self), id=name, name=name)

    def start(self) -> None:
        self._clockwork.start()

    def stop(self) -> None:
        """No bell rings any more. Harmless if they never rang, or have been stopped."""
        clockwork, self._clockwork = self._clockwork, None
        if clockwork is not None and clockwork.running:
            clockwork.shutdown(wait=False)

    def observe(self, database_now: datetime, before: datetime) -> None:
        """Compare the clocks: the database was asked at `before` and has just answered."""
        after = self.clock.now()
        self.ahead = before + (after - before) / 2 - database_now


class _WakeUp(BaseTrigger):  # type: ignore[misc]  # the library ships no types
    """The first tick after everything that has been rung for, by this process's clock."""

    def __init__(self, trigger: Trigger, alarms: Alarms) -> None:
        self._trigger = trigger
        self._alarms = alarms

    def get_next_fire_time(  # pyright: ignore[reportIncompatibleMethodOverride]  # inferred from an empty base method
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        ahead = self._alarms.ahead
        reached = now if previous_fire_time is None else max(now, previous_fire_time)
        tick = self._trigger.following(reached - ahead)
        return None if tick is None else tick + ahead
