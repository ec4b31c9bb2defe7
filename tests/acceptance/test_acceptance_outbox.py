"""What is promised of the outbox, of processes that are killed, on both databases and on a real Kafka."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi import CQRS, Event, Route, Settings
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

APP = Path(__file__).parent / "apps" / "own_session.py"
ROOT = Path(__file__).parents[2]


class Happened(Event, topic="unused", key="customer"):
    customer: str
    number: int


@pytest.fixture
async def url(database_url: str) -> str:
    """A database with the framework's tables and one of the application's."""
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.execute(text("CREATE TABLE mine (n INTEGER)"))
    await engine.dispose()
    return database_url


async def run(url: str, point: str, number: int) -> int:
    """The exit status of the program."""
    environment = {**os.environ, "CQRS_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(APP), point, str(number), env=environment, stderr=subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode in {0, -signal.SIGKILL}, said.decode()
    return process.returncode


async def state(url: str) -> tuple[list[int], list[tuple[str, str, bytes]]]:
    """The application's rows, and the outbox, as any program reads them."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        mine = [row.n for row in await connection.execute(text("SELECT n FROM mine ORDER BY n"))]
        query = text("SELECT topic, key, payload FROM cqrs_outbox ORDER BY position")
        waiting = [(row.topic, row.key, bytes(row.payload)) for row in await connection.execute(query)]
    await engine.dispose()
    return mine, waiting


async def test_outbox_of_a_plain_session_shares_the_fate_of_its_transaction_wherever_the_process_is_killed(
    url: str,
) -> None:
    points = ["added", "inserted", "committed", "never"] * 2
    random.Random(5).shuffle(points)  # noqa: S311  # a seed, and no secret
    acknowledged = []
    for number, point in enumerate(points):
        status = await run(url, point, number)
        assert (status == 0) == (point == "never")
        if point in {"committed", "never"}:
            acknowledged.append(number)

    mine, waiting = await state(url)
    assert mine == acknowledged
    assert [payload for topic, _, payload in waiting if topic == "raw"] == [str(n).encode() for n in acknowledged]
    events = [(key, payload) for topic, key, payload in waiting if topic == "orders"]
    assert events == [("c", f'{{"customer":"c","number":{n}}}'.encode()) for n in acknowledged]


async def test_outbox_messages_reach_their_topics_by_class_function_prefix_and_delay(
    postgres_url: str, real_kafka: str
) -> None:
    """On Kafka, read by a consumer that knows nothing of the framework."""
    prefix, topic = f"{uuid4().hex[:8]}.", "routed"
    settings = Settings(
        service="outbox",
        database_url=postgres_url,
        broker_url=f"kafka://{real_kafka}",
        topic_prefix=prefix,
        topic_partitions=2,
        relay_poll=timedelta(milliseconds=100),
    )
    cqrs = CQRS(settings=settings, route=lambda _: Route(topic, key="customer"))
    cqrs.register(Happened)
    engine = create_async_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
    assert await cqrs.topics.create(["raw"]) == ["raw", "routed"]
    consumer = AIOKafkaConsumer(
        f"{prefix}{topic}", f"{prefix}raw", bootstrap_servers=real_kafka, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    try:
        async with cqrs.running(workers=("relay",)), asyncio.timeout(60):
            async with cqrs.database.session() as session:
                outbox = cqrs.outbox(session)
                ids = [await outbox.add(Happened(customer="c", number=n)) for n in range(20)]
                late = await outbox.add_raw("raw", b"late", key="k", delay=timedelta(seconds=1))
                early = await outbox.add_raw("raw", b"early", key="k", headers={"own": "header"})
                await session.commit()
            received = []
            while len(received) < 22:
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    received += batch
    finally:
        await consumer.stop()

    routed = [one for one in received if one.topic == f"{prefix}{topic}"]
    assert [dict(one.headers)["message-id"].decode() for one in routed] == [str(one) for one in ids]
    assert {one.key for one in routed} == {b"c"}
    raw = [one for one in received if one.topic == f"{prefix}raw"]
    assert [(one.key, one.value) for one in raw] == [(b"k", b"early"), (b"k", b"late")]
    assert [dict(one.headers)["message-id"].decode() for one in raw] == [str(early), str(late)]
    assert dict(raw[0].headers)["own"] == b"header"
