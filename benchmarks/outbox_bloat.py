"""What an empty look into the outbox costs after many messages have passed through it, on PostgreSQL.

    python -m benchmarks.outbox_bloat --rows 10000000

Rows are inserted and deleted in chunks, as writers and relays do, in a database of its own on the server of
POSTGRES_URL. Three times: with the storage parameters that the migration sets, with the server's defaults, and with the
former while an old snapshot stays open, which keeps any vacuum from removing anything.
"""

# ruff: noqa: S608  # the statements are put together of constants
from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.outbox.routing import BUCKETS
from tools.servers.sql import create_database, drop_database

CHUNK = 10_000
AUTOVACUUM_SECONDS = 75
"""Autovacuum looks at each database once a minute, unless the server is configured otherwise."""

INSERT = f"""
INSERT INTO cqrs_outbox (id, aggregatetype, aggregateid, type, topic, key, bucket, headers, payload, available_at,
    created_at)
SELECT gen_random_uuid(), 'order', 'order-' || n, 'order.placed', 'orders', 'order-' || n, n % {BUCKETS},
    '{{"version": "1"}}', convert_to(repeat('x', 120), 'UTF8'), 'epoch', now()
FROM generate_series(1, $1::int) AS n
RETURNING position
"""
DELETE = "DELETE FROM cqrs_outbox WHERE position = ANY ($1::bigint[])"
ALL_BUCKETS = "ARRAY[" + ", ".join(map(str, range(BUCKETS))) + "]"
COLUMNS = "position, id, type, topic, key, payload, headers, tenant"
LOOKS = {
    "by position": f"SELECT {COLUMNS} FROM cqrs_outbox WHERE bucket >= 0 ORDER BY position LIMIT 500",
    "by buckets, each from its beginning": (
        f"SELECT o.* FROM unnest({ALL_BUCKETS}) AS b(number) CROSS JOIN LATERAL (SELECT {COLUMNS} FROM cqrs_outbox x "
        "WHERE x.bucket = b.number ORDER BY x.position LIMIT 500) o LIMIT 500"
    ),
    "by buckets, behind the last position": (
        f"SELECT {COLUMNS} FROM cqrs_outbox WHERE bucket = ANY ({ALL_BUCKETS}) AND position > "
        "(SELECT last_value FROM cqrs_outbox_position_seq) ORDER BY position LIMIT 500"
    ),
}


async def main(rows: int) -> None:
    server = os.environ["POSTGRES_URL"]
    for name, resets, held in (
        ("as shipped", False, False),
        ("the server's defaults", True, False),
        ("as shipped, an old snapshot open", False, True),
    ):
        url = create_database(server)
        try:
            print(f"\n{name}: {rows:,} rows through the outbox")
            await measure(url, rows, resets=resets, held=held)
        finally:
            drop_database(server, url)


async def measure(url: str, rows: int, *, resets: bool, held: bool) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as sql:
        await sql.run_sync(upgrade)
    await engine.dispose()
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        if resets:
            options = await connection.fetchval("SELECT reloptions FROM pg_class WHERE relname = 'cqrs_outbox'")
            names = ", ".join(option.partition("=")[0] for option in options)
            await connection.execute(f"ALTER TABLE cqrs_outbox RESET ({names})")
        await told(connection, "before")
        async with old_snapshot(url) if held else nullcontext():
            seconds = await pass_through(connection, rows)
            print(f"  {rows / seconds:,.0f} rows/s inserted and deleted")
            await told(connection, "at once after")
            await told(connection, "once more")
            await autovacuum(connection)
            await told(connection, "after autovacuum")
        size = await connection.fetchval("SELECT pg_size_pretty(pg_total_relation_size('cqrs_outbox'))")
        print(f"  the table and its indexes have {size}")
    finally:
        await connection.close()


async def pass_through(connection: Any, rows: int) -> float:
    begun = time.perf_counter()
    for _ in range(rows // CHUNK):
        positions = [row["position"] for row in await connection.fetch(INSERT, CHUNK)]
        await connection.execute(DELETE, positions)
    return time.perf_counter() - begun


async def told(connection: Any, when: str) -> None:
    for name, look in LOOKS.items():
        # As an index scan, which is what a relay holds the planner to.
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off")
        (answer,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {look}"))
        plan = answer["Plan"]
        buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        print(f"  {when:16} {name:38} {answer['Execution Time']:10.3f} ms {buffers:10,} buffers")


async def autovacuum(connection: Any) -> None:
    """Wait until the table has been vacuumed by nobody's order, and nothing is dead."""
    query = """SELECT autovacuum_count, n_dead_tup FROM pg_stat_user_tables WHERE relname = 'cqrs_outbox'"""
    ends = time.monotonic() + AUTOVACUUM_SECONDS
    while time.monotonic() < ends:
        count, dead = await connection.fetchrow(query)
        if count and dead < CHUNK:
            break
        await asyncio.sleep(1)
    count, dead = await connection.fetchrow(query)
    print(f"  autovacuum came {count} times, {dead:,} rows are dead")


@asynccontextmanager
async def old_snapshot(url: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT count(*) FROM cqrs_outbox")
            yield
    finally:
        await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    asyncio.run(main(parser.parse_args().rows))
