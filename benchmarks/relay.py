"""The relay: from rows of PostgreSQL to Kafka, beside what others do with the same messages.

The mock cluster is librdkafka's, which keeps everything in memory: what it shows is the relay. `KAFKA_BOOTSTRAP` names
an Apache Kafka for the comparison with aiokafka alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.append import database_for_bench
from benchmarks.timing import Figure, Ratio
from cqrs_fastapi import CQRS, Settings
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.outbox.relay import Only
from cqrs_fastapi.outbox.routing import bucket_of
from tools.servers import kafka

BATCH = 500
SENT = 30_000
ROW_BY_ROW = 1_000
PEER = 500
KEYS = 200
ROUNDS = 3
PAYLOAD = b'{"amount":5,"note":"a note that is as long as notes are, and no longer than that"}'
HEADERS = '{"version":"1","time":"2026-01-01T00:00:00+00:00","correlation-id":"0190b5c2-0000-7000-8000-000000000000"}'

_FILL = text("""
INSERT INTO cqrs_outbox (id, aggregatetype, aggregateid, type, topic, key, bucket, headers, payload, available_at,
    tenant, created_at)
SELECT gen_random_uuid(), 'account', k.key, 'Booked', :topic, k.key, k.bucket, CAST(:headers AS json), :payload,
    now(), '', now()
FROM generate_series(1, CAST(:count AS int)) AS n
JOIN unnest(CAST(:keys AS text[]), CAST(:buckets AS int[])) WITH ORDINALITY AS k(key, bucket, nr)
    ON k.nr = n % cardinality(CAST(:keys AS text[])) + 1
ORDER BY n
""")
_ROWS = """
SELECT position, id, type, topic, key, payload, headers::text FROM cqrs_outbox WHERE attempts = 0
ORDER BY position LIMIT $1
"""
_MARK = "UPDATE cqrs_outbox SET attempts = 1 WHERE position = $1"
Send = Callable[[int], Awaitable[float]]
"""Sends so many messages, and returns the seconds that one took."""


async def run() -> list[Ratio | Figure]:
    """All rows."""
    with TemporaryDirectory() as folder:
        mock = kafka.start(Path(folder) / "kafka", Path(folder) / "log", only="mock")
        try:
            return await _against(mock.server.url) + await _against_apache()
        finally:
            mock.process.crash()


async def _against(bootstrap: str) -> list[Ratio | Figure]:
    async with database_for_bench() as url, _outbox(url) as bench:
        topic = f"bench-{uuid4().hex[:8]}"
        relay = _Relays(url, bootstrap, topic, bench, 1)
        by_row = _RowByRow(bootstrap, topic, bench)
        works: list[tuple[Send, int]] = [(relay, SENT), (by_row, ROW_BY_ROW)]
        peer = _Peer(url, bootstrap, topic)
        if "PYTHON_CQRS" in os.environ:
            works.append((peer, PEER))
        ours, rows, *peers = await _in_turns(works)
        two = _Relays(url, bootstrap, topic, bench, 2)
        single, double = await _in_turns([(relay, SENT), (two, SENT)])
        await by_row.close()
        await peer.close()
    return [
        _times("relay to the mock cluster, times as fast as row by row on asyncpg", ours, rows, 15),
        *(_times("the same, times as fast as the loop of python-cqrs", ours, one, 60) for one in peers),
        _times("two relays in one process, times as fast as one", double, single, 1.5),
        Figure("one relay to the mock cluster, messages a second", 1 / min(ours)),
    ]


async def _against_apache() -> list[Ratio | Figure]:
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
    if not bootstrap:
        return []
    async with database_for_bench() as url, _outbox(url) as bench:
        topic = f"bench-{uuid4().hex[:8]}"
        relay = _Relays(url, bootstrap, topic, bench, 1)
        alone = _Alone(bootstrap, topic)
        ours, theirs = await _in_turns([(relay, SENT), (alone, SENT)])
        await alone.close()
    return [
        _times("relay to Apache Kafka, times as fast as aiokafka alone in batches", ours, theirs, 0.5),
        Figure("one relay to Apache Kafka, messages a second", 1 / min(ours)),
    ]


def _times(name: str, subject: Sequence[float], reference: Sequence[float], limit: float) -> Ratio:
    """How many times as fast the subject is: seconds of the reference by seconds of the subject."""
    ratios = [slow / fast for fast, slow in zip(subject, reference, strict=True)]
    return Ratio(name, limit, min(reference), min(subject), statistics.median(ratios), at_least=True)


async def _in_turns(works: Sequence[tuple[Send, int]]) -> list[list[float]]:
    """Seconds for one message of each, round by round; the first round warms up."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(ROUNDS + 1):
        for place, (work, count) in enumerate(works):
            took = await work(count)
            if number:
                seconds[place].append(took)
    return seconds


class _Bench:
    """Fills the outbox and waits until it is empty."""

    def __init__(self, connection: asyncpg.Connection, url: str) -> None:
        self.connection, self._url = connection, url
        self._engine = create_async_engine(url)

    async def fill(self, topic: str, count: int) -> None:
        keys = [f"account-{number}" for number in range(KEYS)]
        values = {"topic": topic, "headers": HEADERS, "payload": PAYLOAD, "count": count, "keys": keys}
        async with self._engine.begin() as connection:
            await connection.execute(_FILL, {**values, "buckets": [bucket_of(key) for key in keys]})

    async def until_empty(self) -> None:
        while await self.connection.fetchval("SELECT EXISTS (SELECT FROM cqrs_outbox WHERE bucket >= 0)"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self._engine.dispose()
        await self.connection.close()


@asynccontextmanager
async def _outbox(url: str) -> AsyncIterator[_Bench]:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
    bench = _Bench(await asyncpg.connect(url.replace("+asyncpg", "")), url)
    try:
        yield bench
    finally:
        await bench.close()


class _Relays:
    """So many relays of one process; started before, and told when there is something."""

    def __init__(self, url: str, bootstrap: str, topic: str, bench: _Bench, count: int) -> None:
        settings = Settings(
            database_url=url, broker_url=f"kafka://{bootstrap}", relay_batch=BATCH, relay_poll="PT0.02S"
        )
        self._apps = [CQRS(settings=settings) for _ in range(count)]
        self._topic, self._bench = topic, bench

    async def __call__(self, count: int) -> float:
        stop = asyncio.Event()
        for cqrs in self._apps:
            await cqrs.open()
            await cqrs.broker.ensure_topics([self._topic])
        relays = [cqrs.engine.relay(Only()) for cqrs in self._apps]
        running = [asyncio.ensure_future(one.run(stop)) for one in relays]
        # Its first message makes the connections, which the others have before they are timed too.
        await self._bench.fill(self._topic, KEYS)
        await self._bench.until_empty()
        await asyncio.sleep(1.0)
        await self._bench.fill(self._topic, count)
        for one in relays:
            one.wake()
        began = time.perf_counter()
        await self._bench.until_empty()
        took = time.perf_counter() - began
        stop.set()
        await asyncio.gather(*running)
        for cqrs in self._apps:
            await cqrs.close()
        return took / count


class _RowByRow:
    """What is usually written by hand: send and wait, then mark, for each row."""

    def __init__(self, bootstrap: str, topic: str, bench: _Bench) -> None:
        self._bootstrap, self._topic, self._bench = bootstrap, topic, bench
        self._producer: AIOKafkaProducer | None = None

    async def __call__(self, count: int) -> float:
        await self._bench.fill(self._topic, count)
        if self._producer is None:
            self._producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True, linger_ms=0
            )
            await self._producer.start()
        connection = self._bench.connection
        began = time.perf_counter()
        while rows := await connection.fetch(_ROWS, BATCH):
            for row in rows:
                await self._producer.send_and_wait(
                    row["topic"], row["payload"], key=row["key"].encode(), headers=_headers(row)
                )
                await connection.execute(_MARK, row["position"])
        took = time.perf_counter() - began
        await connection.execute("DELETE FROM cqrs_outbox")
        return took / count

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.stop()


class _Alone:
    """aiokafka with the same messages ready made: one batch for each partition, of 500 messages together."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self._producer: AIOKafkaProducer | None = None

    async def __call__(self, count: int) -> float:
        if self._producer is None:
            self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True)
            await self._producer.start()
        partitions = sorted(await self._producer.partitions_for(self._topic))
        keys = [f"account-{number}".encode() for number in range(KEYS)]
        places = {key: DefaultPartitioner()(key, partitions, partitions) for key in keys}
        headers = _headers({"headers": HEADERS, "id": uuid4(), "type": "Booked", "position": 123456})
        began = time.perf_counter()
        for first in range(0, count, BATCH):
            await self._send([keys[number % KEYS] for number in range(first, first + BATCH)], places, headers)
        return (time.perf_counter() - began) / count

    async def _send(self, keys: Sequence[bytes], places: dict[bytes, int], headers: Sequence[object]) -> None:
        producer = self._producer
        assert producer is not None
        batches = {}
        for key in keys:
            place = places[key]
            if place not in batches:
                batches[place] = producer.create_batch()
            batches[place].append(key=key, value=PAYLOAD, timestamp=None, headers=headers)
        sent = [await producer.send_batch(batch, self._topic, partition=place) for place, batch in batches.items()]
        await asyncio.gather(*sent)

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.stop()


class _Peer:
    """python-cqrs in a process of its own, by the Python that `PYTHON_CQRS` names."""

    def __init__(self, url: str, bootstrap: str, topic: str) -> None:
        self._arguments = (url, bootstrap, topic, str(BATCH))
        self._process: asyncio.subprocess.Process | None = None

    async def __call__(self, count: int) -> float:
        if self._process is None:
            program = str(Path(__file__).parent / "python_cqrs_relay.py")
            self._process = await asyncio.create_subprocess_exec(
                os.environ["PYTHON_CQRS"],
                program,
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"PATH": os.environ["PATH"]},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n".encode())
        return float(await self._process.stdout.readline()) / count

    async def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()


def _headers(row: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """Those that the relay sends."""
    own = {"message-id": str(row["id"]), "type": row["type"], "content-type": "application/json"}
    headers = {**own, **json.loads(row["headers"]), "outbox-position": str(row["position"])}
    return [(name, value.encode()) for name, value in headers.items()]
