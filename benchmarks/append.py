"""Appending on PostgreSQL with fsync on, and on SQLite: through the mediator, against the same rows by hand.

An append is a command whose handler gives one event with a topic to the event store, for a stream that must not exist:
the row of the stream, the event and the row of the outbox, durable when `send` returns.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import aiosqlite
import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.peer import Peer
from benchmarks.timing import Ratio, Work, compare
from cqrs_fastapi import CQRS, NO_STREAM, Command, Event, EventStore, Settings
from cqrs_fastapi.migrations import upgrade
from tools.servers.fleet import Servers
from tools.servers.sql import create_database, drop_database

COUNT = 3_200
ROUNDS = 7
TASKS = 32
NOTE = "a note that makes the event about as long as events are, which is a hundred bytes"
DATA = '{"amount":5,"note":"' + NOTE + '"}'


class Booked(Event, topic="bench.booked"):
    amount: int
    note: str


class Book(Command[None]):
    stream: str


class BookBySession(Command[None]):
    stream: str


async def book(command: Book, store: EventStore) -> None:
    await store.append(command.stream, [Booked(amount=5, note=NOTE)], NO_STREAM)


async def book_by_session(command: BookBySession, session: AsyncSession, store: EventStore) -> None:
    await session.connection()
    await store.append(command.stream, [Booked(amount=5, note=NOTE)], NO_STREAM)


async def run() -> list[Ratio]:
    """All rows."""
    async with database_for_bench() as url:
        return [*await _on_postgres(url), *await _on_sqlite()]


@asynccontextmanager
async def database_for_bench() -> AsyncIterator[str]:
    """An empty database of PostgreSQL; a server is started for it if none is named by POSTGRES_URL."""
    servers = Servers()
    started = "POSTGRES_URL" not in os.environ
    server = servers.start("postgres").url if started else os.environ["POSTGRES_URL"]
    url = create_database(server)
    try:
        yield url
    finally:
        drop_database(server, url)
        if started:
            servers.stop("postgres")


async def _on_postgres(url: str) -> list[Ratio]:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
    async with (
        _application(url) as cqrs,
        asyncpg.create_pool(url.replace("+asyncpg", ""), min_size=TASKS, max_size=TASKS) as pool,
    ):
        await pool.execute("CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY, stream text, data json)")
        ours, by_session = _by(cqrs, Book), _by(cqrs, BookBySession)
        by_hand, bare = _by_hand(pool), _bare(pool)
        return [
            await _rate("append, 32 tasks / the same rows by hand, one transaction each", ours, by_hand, 3.5),
            await _rate("append, 32 tasks / a bare one-row autocommit INSERT", ours, bare, 2.0),
            await _rate("append, 128 tasks / a bare one-row autocommit INSERT", ours, bare, 3.0, tasks=128),
            await _slowest("append, 32 tasks, p99 / p99 of the same rows by hand", ours, by_hand, 0.5),
            await _rate("append beside the session's own work / by hand", by_session, by_hand, 0.5),
            await _rate_of_eventsourcing(url, ours),
        ]


async def _on_sqlite() -> list[Ratio]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "other.db"
        url = f"sqlite+aiosqlite:///{Path(folder) / 'bench.db'}"
        async with _application(url) as cqrs, aiosqlite.connect(file, isolation_level=None) as db:
            await db.execute("PRAGMA journal_mode=WAL")
            await db.execute("PRAGMA synchronous=FULL")
            await db.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, stream TEXT, data TEXT)")
            name = "append on SQLite, 32 tasks / aiosqlite's BEGIN, INSERT, COMMIT"
            return [await _rate(name, _by(cqrs, Book), _by_aiosqlite(db), 4.0)]


@asynccontextmanager
async def _application(url: str) -> AsyncIterator[CQRS]:
    cqrs = CQRS(settings=Settings(database_url=url, max_units_of_work=1_000))
    cqrs.register(Booked)
    cqrs.handles(Book)(book)
    cqrs.handles(BookBySession)(book_by_session)
    async with cqrs.running(workers=()):
        yield cqrs


Once = Callable[[], Awaitable[None]]


def _by(cqrs: CQRS, command: type[Book | BookBySession]) -> Once:
    send = cqrs.mediator.send

    async def once() -> None:
        await send(command(stream=f"account-{uuid4()}"))

    return once


def _by_hand(pool: asyncpg.Pool) -> Once:
    async def once() -> None:
        identifier, now = uuid4(), datetime.now(UTC)
        stream = f"account-{identifier}"
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO cqrs_streams (stream, category, version) VALUES ($1, 'account', 1)", stream
            )
            await connection.execute(
                "INSERT INTO cqrs_events (message_id, stream, version, category, type, schema_version, data, metadata,"
                " recorded_at) VALUES ($1, $2, 1, 'account', 'Booked', 1, $3, '{}', $4)",
                *(identifier, stream, DATA, now),
            )
            await connection.execute(
                "INSERT INTO cqrs_outbox (id, aggregatetype, aggregateid, type, topic, key, bucket, headers, payload,"
                " available_at, created_at) VALUES ($1, 'account', $2, 'Booked', 'bench.booked', $2, 1, '{}', $3, $4,"
                " $4)",
                *(identifier, stream, DATA.encode(), now),
            )

    return once


def _bare(pool: asyncpg.Pool) -> Once:
    async def once() -> None:
        async with pool.acquire() as connection:
            await connection.execute("INSERT INTO bare (stream, data) VALUES ($1, $2)", f"account-{uuid4()}", DATA)

    return once


def _by_aiosqlite(db: aiosqlite.Connection) -> Once:
    turn = asyncio.Lock()

    async def once() -> None:
        async with turn:
            await db.execute("BEGIN IMMEDIATE")
            await db.execute("INSERT INTO events (stream, data) VALUES (?, ?)", (f"account-{uuid4()}", DATA))
            await db.execute("COMMIT")

    return once


def _at_once(once: Once, tasks: int, latencies: list[float] | None = None) -> Work:
    async def task(count: int) -> None:
        for _ in range(count):
            begin = time.perf_counter()
            await once()
            if latencies is not None:
                latencies.append(time.perf_counter() - begin)

    async def work(count: int) -> None:
        await asyncio.gather(*(task(count // tasks) for _ in range(tasks)))

    return work


async def _rate(name: str, ours: Once, reference: Once, limit: float, *, tasks: int = TASKS) -> Ratio:
    """How many times as many a second."""
    subject, other = _at_once(reference, tasks), _at_once(ours, tasks)
    return await compare(name, subject, other, limit=limit, count=COUNT, rounds=ROUNDS, at_least=True)


async def _rate_of_eventsourcing(url: str, ours: Once) -> Ratio:
    """It knows threads only: as many as there are tasks, each with a connection."""
    with Peer(url, TASKS, NOTE) as peer:
        name = "append, 32 tasks / eventsourcing's app.save, 32 threads"
        subject, other = peer.save, _at_once(ours, TASKS)
        return await compare(name, subject, other, limit=12.0, count=COUNT, rounds=ROUNDS, at_least=True)


async def _slowest(name: str, ours: Once, reference: Once, limit: float) -> Ratio:
    """The 99th percentiles, by rounds in turns."""
    slowest: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for once, found in zip((reference, ours), slowest, strict=True):
            latencies: list[float] = []
            await _at_once(once, TASKS, latencies)(COUNT)
            found.append(statistics.quantiles(latencies, n=100)[98])
    references, subjects = slowest
    ratios = [one / other for one, other in zip(subjects, references, strict=True)]
    return Ratio(name, limit, min(subjects), min(references), statistics.median(ratios))
