"""Relays as processes, on PostgreSQL and Kafka: killed, stopped, resumed, and told to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from processes import APPS
from programs import BIN, Stage
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

WRITE = """
import asyncio, sys
import senders

async def main(keys, first, last):
    async with senders.cqrs.running(workers=()):
        for number in range(first, last):
            for key in range(keys):
                await senders.cqrs.mediator.send(senders.Count(stream=f"s-{key}", numbers=(number,)))

asyncio.run(main(*map(int, sys.argv[1:])))
"""


class Senders:
    """The application, its database and its topic."""

    def __init__(self, folder: Path, url: str, bootstrap: str) -> None:
        self.topic = f"relay-{uuid4().hex[:10]}"
        self.url, self.bootstrap = url, bootstrap
        self.stage = Stage(
            folder,
            {
                "PYTHONPATH": os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]),
                "CQRS_DATABASE_URL": url,
                "CQRS_BROKER_URL": f"kafka://{bootstrap}",
                "CQRS_RELAY_POLL": "PT0.1S",
                "TOPIC": self.topic,
            },
        )

    def relay(self, *options: str, **environment: str) -> Any:
        return self.stage.running(str(BIN / "cqrs"), "relay", "senders:cqrs", *options, **environment)

    def write(self, keys: int, first: int, last: int) -> None:
        self.stage.run(sys.executable, "-c", WRITE, str(keys), str(first), str(last), seconds=180)

    async def ask(self, statement: str) -> Any:
        engine = create_async_engine(self.url)
        async with engine.connect() as connection:
            found = (await connection.execute(text(statement))).scalar()
        await engine.dispose()
        return found

    async def until(self, statement: str, wanted: object, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while await self.ask(statement) != wanted:
                await asyncio.sleep(0.1)

    async def until_empty(self) -> None:
        await self.until("SELECT count(*) FROM cqrs_outbox", 0)

    async def until_shared(self, *counts: int) -> None:
        """By so many relays, with so many shares each."""
        each = ",".join(map(str, counts))
        shares = "SELECT count(*) AS n FROM cqrs_leases WHERE name LIKE 'relay:%' AND owner IS NOT NULL GROUP BY owner"
        await self.until(f"SELECT string_agg(n::text, ',' ORDER BY n) FROM ({shares}) s", each)  # noqa: S608

    async def received(self) -> list[tuple[str, int, str]]:
        """Key, number and message id of all that is in the topic, partition by partition."""
        consumer = AIOKafkaConsumer(
            self.topic, bootstrap_servers=self.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            places = consumer.assignment()
            ends = await consumer.end_offsets(places)
            found: list[tuple[str, int, str]] = []
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        ids = dict(record.headers)["message-id"].decode()
                        found.append((record.key.decode(), json.loads(record.value)["number"], ids))
            return found
        finally:
            await consumer.stop()


def in_order(received: list[tuple[str, int, str]]) -> dict[str, list[int]]:
    """The numbers of each key as they came first."""
    seen: set[str] = set()
    keys: dict[str, list[int]] = defaultdict(list)
    for key, number, message_id in received:
        if message_id not in seen:
            seen.add(message_id)
            keys[key].append(number)
    return dict(keys)


def expected(keys: int, numbers: int) -> dict[str, list[int]]:
    return {f"s-{key}": list(range(numbers)) for key in range(keys)}


@pytest.fixture
async def senders(tmp_path: Path, postgres_url: str, kafka_bootstrap: str) -> Senders:
    engine = create_async_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
    return Senders(tmp_path, postgres_url, kafka_bootstrap)


async def test_relay_killed_between_acknowledgement_and_delete_loses_and_inverts_nothing(senders: Senders) -> None:
    senders.write(3, 0, 10)
    with senders.relay(DIE_AT="acknowledged") as dying:
        assert await asyncio.to_thread(dying.process.wait, 60) == -signal.SIGKILL
    with senders.relay():
        await senders.until_empty()
    received = await senders.received()
    assert in_order(received) == expected(3, 10)
    assert 30 < len(received) <= 60


async def test_relay_stopped_past_its_lease_and_resumed_deletes_nothing_that_is_not_its_own(senders: Senders) -> None:
    with senders.relay() as first:
        await senders.until_shared(16)
        with senders.relay():
            await senders.until_shared(8, 8)
            first.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            await senders.until_shared(16)
            taken_over = time.monotonic() - began
            senders.write(4, 0, 10)
            await senders.until_empty()
            first.process.send_signal(signal.SIGCONT)
            await senders.until_shared(8, 8)
            senders.write(4, 10, 20)
            await senders.until_empty()
        await senders.until_shared(16)
    assert taken_over < 10  # a second by its lease; this machine may be slow
    assert in_order(await senders.received()) == expected(4, 20)


async def test_relay_hands_over_at_once_when_it_is_terminated(senders: Senders) -> None:
    with senders.relay() as first, senders.relay():
        await senders.until_shared(8, 8)
        assert await asyncio.to_thread(first.stop) == 0
        assert await senders.ask("SELECT count(*) FROM cqrs_relay_members") == 1
        await senders.until_shared(16)
        senders.write(4, 0, 5)
        await senders.until_empty()
    assert in_order(await senders.received()) == expected(4, 5)


async def test_relay_four_at_once_keep_the_order_of_each_key_while_they_are_killed(senders: Senders) -> None:
    with ExitStack() as stack:
        relays = [stack.enter_context(senders.relay("--batch", "50")) for _ in range(4)]
        writing = asyncio.create_task(asyncio.to_thread(senders.write, 20, 0, 40))
        await asyncio.sleep(4)
        relays[0].process.kill()
        await asyncio.sleep(1)
        relays[1].process.send_signal(signal.SIGTERM)
        relays.append(stack.enter_context(senders.relay()))
        await writing
        await senders.until_empty()
    received = await senders.received()
    assert in_order(received) == expected(20, 40)
    assert len(received) <= 800 + 2 * 50


async def test_relay_once_sends_what_is_due_of_these_topics_and_tells_whether_it_could(senders: Senders) -> None:
    senders.write(2, 0, 5)
    with senders.relay("--once", "--topics", "another") as idle:
        assert await asyncio.to_thread(idle.process.wait, 60) == 0, idle.printed()
    assert await senders.ask("SELECT count(*) FROM cqrs_outbox") == 10
    with senders.relay("--once", "--topics", f"another,{senders.topic}", "--batch", "3") as once:
        assert await asyncio.to_thread(once.process.wait, 60) == 0, once.printed()
    assert await senders.ask("SELECT count(*) FROM cqrs_outbox") == 0
    assert in_order(await senders.received()) == expected(2, 5)
    senders.write(1, 5, 6)
    with senders.relay("--once", CQRS_BROKER_URL="kafka://127.0.0.1:1?request_timeout_ms=500") as failing:
        assert await asyncio.to_thread(failing.process.wait, 60) == 1, failing.printed()
    assert await senders.ask("SELECT count(*) FROM cqrs_outbox") == 1
