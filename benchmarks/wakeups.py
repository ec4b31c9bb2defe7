"""From a commit to a handler in another process while nothing else happens, and what waiting asks of PostgreSQL."""

from __future__ import annotations

import asyncio
import sys

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.append import database_for_bench
from benchmarks.stopwatch import Begin, application
from benchmarks.timing import Figure
from cqrs_fastapi.migrations import upgrade

COMMITS = 200
PAUSE = 0.05
IDLE_SECONDS = 20.0
_TRANSACTIONS = """
SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()
"""


async def run() -> list[Figure]:
    """All rows."""
    async with database_for_bench() as url:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.stopwatch",
            url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip() == b"ready"
        took = await _commits(url, process.stdout)
        asked = await _idle(url)
        process.stdin.close()
        await process.wait()
    return [
        Figure("commit to handler in another process, median, ms", took[len(took) // 2] * 1e3, 10, at_least=False),
        Figure("the same, 99th percentile, ms", took[len(took) * 99 // 100] * 1e3, 50, at_least=False),
        Figure("all workers of a process idle, transactions a second", asked, 5, at_least=False),
    ]


async def _commits(url: str, output: asyncio.StreamReader) -> list[float]:
    cqrs = application(url)
    seconds: list[float] = []
    async with cqrs.running(workers=()):
        await asyncio.sleep(2)  # until both listen
        for number in range(COMMITS + 10):
            await cqrs.mediator.send(Begin(number=number))
            seconds.append(float(await output.readline()))
            await asyncio.sleep(PAUSE)
    return sorted(seconds[10:])


async def _idle(url: str) -> float:
    """By all connections of the database, among them the one that asks twice."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await asyncio.sleep(15)  # until the pauses are as long as they become
        before = await connection.fetchval(_TRANSACTIONS)
        await asyncio.sleep(IDLE_SECONDS)
        after = await connection.fetchval(_TRANSACTIONS)
    finally:
        await connection.close()
    return float((after - before) / IDLE_SECONDS)
