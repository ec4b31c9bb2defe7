"""Reading the store of PostgreSQL: how fast a reader catches up, what waiting costs, and what it holds in memory.

These are figures of one machine, not ratios: a reader has no counterpart that is written by hand in three lines.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.append import NOTE, Booked, database_for_bench
from benchmarks.timing import Figure
from cqrs_fastapi import CQRS, EventStore, Query, Settings
from cqrs_fastapi.eventstore.decoding import decoded
from cqrs_fastapi.eventstore.horizon import Horizon
from cqrs_fastapi.eventstore.subscription import Selection, SharedHorizon, Subscription
from cqrs_fastapi.migrations import upgrade

BEHIND = int(os.environ.get("EVENTS_BEHIND", "1000000"))
"""Events that a new reader has before it."""
CAUGHT_UP = 200_000
HANDLED = 1_000
IDLE = 20
IDLE_SECONDS = 20.0

_FILL = text("""
INSERT INTO cqrs_events (message_id, stream, version, category, type, schema_version, data, metadata, recorded_at)
SELECT gen_random_uuid(), 'account-' || n / 100, n % 100 + 1, 'account', 'Booked', 1, :data,
    '{"correlation_id":"c","time":"2026-01-01T00:00:00+00:00"}', now()
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
""")


class ReadAll(Query[int]):
    count: int


async def run() -> list[Figure]:
    """All rows."""
    async with database_for_bench() as url:
        await _fill(url)
        rate, resident = await _catch_up(url)
        return [
            Figure(f"catch-up, {BEHIND:,} events behind, events decoded and dropped, a second", rate, 50_000),
            Figure("the same, growth of the resident memory, MB", resident, 20, at_least=False),
            Figure("store.read_all through the mediator, events a second", await _read_all(url)),
            Figure("durable handler that does nothing, a transaction each, events a second", await _handle(url)),
            Figure(f"{IDLE} idle subscriptions, share of a core in percent", await _idle(url), 1.0, at_least=False),
        ]


async def _fill(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    data = f'{{"amount":5,"note":"{NOTE}"}}'
    for first in range(0, BEHIND, 100_000):
        async with engine.begin() as connection:
            last = min(first + 100_000, BEHIND) - 1
            await connection.execute(_FILL, {"data": data, "first": first, "last": last})
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE cqrs_events"))
    await engine.dispose()


async def _catch_up(url: str) -> tuple[float, float]:
    """Events in a second, and how much larger it has become from the first tenth on, in MB."""
    cqrs = _application(url)
    database = cqrs.database
    async with cqrs.running(workers=()):
        registry = cqrs.engine.registry
        shared = SharedHorizon(database, timedelta(seconds=0.1))
        now = await shared.fresh()
        start = Horizon(now.highest, 0, now.server)
        subscription = Subscription(database, shared, Selection(types=frozenset({"Booked"})), start)
        seen, resident = 0, 0.0
        began = time.perf_counter()
        while seen < BEHIND:
            batch = await subscription.next()
            for arrival in batch.events:
                _do_nothing(*decoded(arrival.stored, registry))
            seen += len(batch.events)
            if not resident and seen >= BEHIND / 10:
                resident = _resident()
        return seen / (time.perf_counter() - began), _resident() - resident


async def _read_all(url: str) -> float:
    cqrs = _application(url)
    async with cqrs.running(workers=()):
        began = time.perf_counter()
        found = await cqrs.mediator.send(ReadAll(count=CAUGHT_UP))
        return found / (time.perf_counter() - began)


async def _handle(url: str) -> float:
    cqrs, done = _application(url), asyncio.Event()
    seen: list[float] = []

    @cqrs.on(Booked, from_start=True)
    async def nothing(_: Booked) -> None:
        seen.append(time.perf_counter())
        if len(seen) == HANDLED:
            done.set()

    async with cqrs.running(workers=("consumer",)):
        await done.wait()
    return (HANDLED - 1) / (seen[HANDLED - 1] - seen[0])


async def _idle(url: str) -> float:
    """With all workers of the readers at work, and nothing to read."""
    cqrs = _application(url)
    for number in range(IDLE):

        async def nothing(_: Booked) -> None: ...

        nothing.__name__ = nothing.__qualname__ = f"nothing_{number}"
        cqrs.on(Booked)(nothing)
    async with cqrs.running(workers=("consumer",)):
        await asyncio.sleep(5)  # until they all wait
        began = time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        return 100 * (time.process_time() - began) / IDLE_SECONDS


def _application(url: str) -> CQRS:
    cqrs = CQRS(settings=Settings(database_url=url))
    cqrs.register(Booked)

    @cqrs.handles(ReadAll)
    async def read_all(query: ReadAll, store: EventStore) -> int:
        count = 0
        async for _ in store.read_all(limit=query.count):
            count += 1
        return count

    return cqrs


def _do_nothing(_: object) -> None: ...


def _resident() -> float:
    """Of this process, in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024
