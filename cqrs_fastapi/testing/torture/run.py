"""One run: the load and the chaos for a while, then quiet, then the reader to its end, then the judgement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from random import Random

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.testing.torture import load, postgres_load
from cqrs_fastapi.testing.torture.chaos import Chaos
from cqrs_fastapi.testing.torture.elsewhere import other_process
from cqrs_fastapi.testing.torture.field import Field, Hand
from cqrs_fastapi.testing.torture.ledger import Ledger
from cqrs_fastapi.testing.torture.naive_readers import NaivePositionReader, NaiveXidReader
from cqrs_fastapi.testing.torture.plan import Plan
from cqrs_fastapi.testing.torture.readers import FloorReader, Reader
from cqrs_fastapi.testing.torture.scan import judge
from cqrs_fastapi.testing.torture.stage import Stage, standing
from cqrs_fastapi.testing.torture.verdict import Verdict

_SLOW = {"postgresql": 1.0, "sqlite": 0.02}
"""How long a transaction stays open after its append, in seconds. On SQLite everybody waits for it."""
_STUCK = 5.0
"""Seconds without a delivery after which a reader that is not done is held back, or has lost its way."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`waited_for_foreign`: the reader stood still before its end while a transaction was open that appends nothing."""

    verdict: Verdict
    seconds: float
    outcomes: dict[str, int]
    kills: int
    foreign_seconds: float
    waited_for_foreign: bool
    notes: tuple[str, ...]

    @property
    def is_ok(self) -> bool:
        return not self.verdict.faults.any and not self.waited_for_foreign


async def run(plan: Plan, stop: asyncio.Event, clock: Clock) -> Outcome:
    """Make the tables, torture, judge, drop the tables. `stop` ends the load early, and it is judged all the same."""
    random = Random(plan.seed)  # noqa: S311  # choices of a load, no secrets
    name = f"torture_{Random().getrandbits(40):010x}_"  # noqa: S311  # two runs with one seed may meet in a database
    async with standing(plan.database_url, name, plan.writers) as stage:
        if plan.reader == "xid" and not stage.is_postgres:
            raise ConfigurationError("SQLite has no transaction ids; write --reader floor or --reader position")
        return await _Run(plan, stage, random, clock).through(stop)


class _Run:
    def __init__(self, plan: Plan, stage: Stage, random: Random, clock: Clock) -> None:
        self._plan, self._stage, self._random = plan, stage, random
        self._ledger = Ledger(random.getrandbits(64))
        self._chaos = Chaos(stage, random)
        slow = _SLOW[stage.reader.dialect]
        self._field = Field(self._ledger, random, clock, stage.writers, stage.appenders, stage.name, slow)
        self._reader = self._choose_reader(clock)

    async def through(self, stop: asyncio.Event) -> Outcome:
        await self._reader.open()
        kinds = await self._kinds()
        loop = asyncio.get_running_loop()
        async with _running(self._reader.run()):
            began = loop.time()
            async with self._foreign():
                await self._load(kinds, stop)
                seconds = loop.time() - began
                was_in_time = await self._drain()
                foreign = loop.time() - began
            await self._drain()
        verdict = await judge(self._stage.chaos, self._ledger)
        return Outcome(
            verdict=verdict,
            seconds=seconds,
            outcomes=dict(self._ledger.outcomes),
            kills=self._chaos.kills,
            foreign_seconds=foreign if self._stage.is_postgres else 0.0,
            waited_for_foreign=not was_in_time,
            notes=tuple(self._chaos.notes),
        )

    async def _load(self, kinds: tuple[load.Kind, ...], stop: asyncio.Event) -> None:
        """Until the time is over and all that was begun has ended, prepared transactions as well."""
        try:
            async with self._disturbed(), self._accompanied():
                await self._write_all(kinds, stop)
            for appender in self._stage.appenders:
                await appender.close()
        finally:
            if self._stage.is_postgres:
                await self._chaos.settle()
                await self._chaos.end_prepared()

    async def _write_all(self, kinds: tuple[load.Kind, ...], stop: asyncio.Event) -> None:
        chosen = [kinds[number % len(kinds)] for number in range(self._plan.writers)]
        async with asyncio.TaskGroup() as group:
            for number, kind in enumerate(chosen):
                group.create_task(load.write_on(Hand(self._field, number, kind.__name__), kind))
            group.create_task(self._stop_later(stop))

    async def _stop_later(self, stop: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), self._plan.seconds)
        self._field.stop.set()

    async def _drain(self) -> bool:
        """Whether the reader came to its end, before it stood still."""
        loop = asyncio.get_running_loop()
        seen, since = self._ledger.deliveries, loop.time()
        while not await self._reader.is_done():
            if self._ledger.deliveries != seen:
                seen, since = self._ledger.deliveries, loop.time()
            elif loop.time() - since > _STUCK:
                return False
            await asyncio.sleep(0.05)
        return True

    async def _kinds(self) -> tuple[load.Kind, ...]:
        kinds = load.kinds(group_commit=self._plan.group_commit)
        if self._plan.decisions:
            kinds += (load.decision,)
        if self._stage.is_postgres:
            kinds += postgres_load.KINDS
            if await self._chaos.allows_prepared():
                kinds += (postgres_load.prepared,)
        return kinds

    def _choose_reader(self, clock: Clock) -> Reader:
        database = self._stage.reader
        if self._plan.reader == "position":
            return NaivePositionReader(database, self._ledger)
        if self._plan.reader == "xid":
            return NaiveXidReader(database, self._ledger)
        return FloorReader(database, self._ledger, clock)

    def _foreign(self) -> AbstractAsyncContextManager[None]:
        return self._chaos.foreign_transaction() if self._stage.is_postgres else nullcontext()

    @asynccontextmanager
    async def _disturbed(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self._stage.is_postgres:
                await stack.enter_async_context(_running(self._chaos.clear_up()))
                if self._plan.kills:
                    await stack.enter_async_context(_running(self._chaos.kill()))
            yield

    @asynccontextmanager
    async def _accompanied(self) -> AsyncIterator[None]:
        """On SQLite another process writes to the same file, until the writers of this one have ended."""
        if self._stage.is_postgres:
            yield
            return
        async with other_process(self._plan, self._stage.name, self._ledger, self._random):
            yield


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Beside the block, and cancelled at its end. An error of its own is raised there."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
