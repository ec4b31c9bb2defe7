"""Line 3, the consumer: real processes on PostgreSQL and Apache Kafka, killed at random and in the midst of a batch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from processes import APPS, environment, until
from sqlalchemy import Column, Integer, MetaData, String, Table, text
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.brokers.kafka.broker import KafkaBroker
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.migrations import upgrade
from tools.servers.fleet import Servers

KEYS = 30
OPTIONS = "session_timeout_ms=6000&stall_timeout_ms=3000"


@dataclass
class Service:
    """Processes of one service that consumes."""

    url: str
    bootstrap: str
    folder: Path
    topic: str = field(default_factory=lambda: f"came-{uuid4().hex}")
    name: str = field(default_factory=lambda: f"s{uuid4().hex[:12]}")
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prepare(self) -> None:
        async def make() -> None:
            engine = create_async_engine(self.url)
            async with engine.begin() as connection:
                await connection.run_sync(upgrade)
                await connection.run_sync(_effects().create)
            await engine.dispose()
            await KafkaBroker(KafkaConfig((self.bootstrap,), partitions=4)).ensure_topics([self.topic])

        asyncio.run(make())

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        """Returns when it consumes."""
        given = environment(
            self.folder,
            CQRS_DATABASE_URL=self.url,
            CQRS_BROKER_URL=f"kafka://{self.bootstrap}?{OPTIONS}",
            CQRS_SERVICE=self.name,
            CQRS_CONSUMER_BATCH="50",
            CQRS_CREATE_TOPICS="false",
            TOPIC=self.topic,
            FOLDER=str(self.folder),
            **more,
        )
        program = [sys.executable, str(APPS / "consuming.py")]
        with (self.folder / "consumers.log").open("ab") as log:
            process = subprocess.Popen(program, env=given, stdout=log, stderr=log)
        self.processes.append(process)
        until(lambda: (self.folder / f"ready-{process.pid}").exists() or process.poll() is not None, "it runs")
        return process

    def put(self, first: int, count: int) -> None:
        async def publish() -> None:
            broker = KafkaBroker(KafkaConfig((self.bootstrap,)))
            publisher = await broker.publisher()
            outcomes = await publisher.publish([self._message(n) for n in range(first, first + count)])
            assert {outcome.delivery.value for outcome in outcomes} == {"acknowledged"}
            await broker.close()

        asyncio.run(publish())

    def _message(self, number: int) -> OutgoingMessage:
        message_id, key = uuid4(), f"key-{number % KEYS}"
        headers = {"message-id": str(message_id), "type": "other.came", "version": "1"}
        payload = f'{{"key":"{key}","number":{number}}}'.encode()
        return OutgoingMessage(message_id, self.topic, key, payload, headers)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        async def ask() -> list[tuple[object, ...]]:
            engine = create_async_engine(self.url)
            async with engine.connect() as connection:
                rows = [tuple(row) for row in await connection.execute(text(query))]
            await engine.dispose()
            return rows

        return asyncio.run(ask())

    def done(self) -> int:
        return int(str(self.rows("SELECT count(*) FROM effects")[0][0]))

    def faults(self, count: int) -> list[str]:
        """What is missing, doubled, or out of the order of its key."""
        found: list[str] = []
        effects = self.rows("SELECT handler, key, number FROM effects ORDER BY n")
        times = Counter((handler, number) for handler, _, number in effects)
        for handler in ("batched", "alone"):
            wrong = {number: times[handler, number] for number in range(count) if times[handler, number] != 1}
            found += [f"{handler} has {number} {how_often} times" for number, how_often in wrong.items()]
        places = self.rows("SELECT handler, key, place, n FROM effects ORDER BY handler, key, place")
        for (handler, key, _, before), (next_handler, next_key, _, after) in itertools.pairwise(places):
            # Rows of one key are numbered when they are written, so later messages have higher numbers.
            if (handler, key) == (next_handler, next_key) and int(str(after)) < int(str(before)):
                found.append(f"{handler} has {key} out of order")
        if letters := self.rows("SELECT code, error FROM cqrs_dead_letters"):
            found.append(f"parked: {letters}")
        return found

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)


def _effects() -> Table:
    names = ("handler", "key")
    columns = [Column("n", Integer, primary_key=True), *(Column(name, String) for name in names)]
    return Table("effects", MetaData(), *columns, *(Column(name, Integer) for name in ("number", "place", "process")))


@pytest.fixture
def service(postgres_url: str, real_kafka: str, tmp_path: Path) -> Iterator[Service]:
    service = Service(postgres_url, real_kafka, tmp_path)
    service.prepare()
    yield service
    service.close()


def test_consumer_killed_in_the_midst_of_a_batch_leaves_one_effect_per_message_and_handler(service: Service) -> None:
    service.put(0, 300)
    doomed = service.start(DIE_AT="137")
    assert doomed.wait(60) == -signal.SIGKILL
    assert service.rows("SELECT through FROM cqrs_dispatches"), "nothing tells what it was at"
    service.start()
    until(lambda: service.done() == 600, "every message is handled", 90)
    assert service.faults(300) == []


def test_consumer_parks_a_message_that_kills_its_process_and_all_others_are_handled(service: Service) -> None:
    service.put(0, 120)
    parked = "SELECT code FROM cqrs_dead_letters WHERE consumer = 'batched' AND code = 'handler_crashed'"
    for _ in range(3):  # one that nobody knows the cause of, and as many as its handler may try
        doomed = service.start(DIE_AT="50", CQRS_HANDLER_ATTEMPTS="2")
        assert doomed.wait(60) == -signal.SIGKILL
        assert not service.rows(parked)
    service.start(DIE_AT="50", CQRS_HANDLER_ATTEMPTS="2")
    until(lambda: bool(service.rows(parked)), "the message is parked", 60)
    behind = "SELECT message_id FROM cqrs_dead_letters WHERE consumer = 'batched' AND code = 'behind'"
    until(lambda: service.done() == 240 - 1 - 2 and len(service.rows(behind)) == 2, "everything else is handled", 60)


def test_consumer_processes_killed_and_stopped_at_random_lose_repeat_and_reorder_nothing(service: Service) -> None:
    chance, number = random.Random(20), 0  # noqa: S311  # a seed makes the run the same again
    for _ in range(3):
        service.start()
    for _ in range(5):
        service.put(number, 150)
        number += 150
        time.sleep(chance.uniform(0.2, 1.5))
        victim = service.processes[-chance.randint(1, 3)]
        if victim.poll() is None:
            os.kill(victim.pid, chance.choice([signal.SIGKILL, signal.SIGTERM]))
            victim.wait(30)
            service.processes.remove(victim)
            service.start()
    until(lambda: service.done() >= 2 * number, "every message is handled", 120)
    assert service.faults(number) == []


def test_consumer_goes_on_after_its_broker_hung_and_was_killed(
    postgres_url: str, real_kafka: str, tmp_path: Path
) -> None:
    del real_kafka  # only to skip where there is none
    outside = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP"}
    servers = Servers(tmp_path / "servers", outside)
    try:
        service = Service(postgres_url, servers.start("kafka").url, tmp_path)
        service.prepare()
        service.start()
        service.put(0, 60)
        until(lambda: service.done() == 120, "the first are handled", 60)
        record = servers._state.load("kafka")
        assert record is not None
        os.kill(record.started.process.pid, signal.SIGSTOP)
        time.sleep(12)
        os.kill(record.started.process.pid, signal.SIGCONT)
        service.put(60, 60)
        until(lambda: service.done() == 240, "those after the pause are handled", 90)
        servers.restart("kafka", crash=True)
        service.put(120, 60)
        until(lambda: service.done() == 360, "those after the restart are handled", 90)
        assert service.faults(180) == []
        service.close()
    finally:
        servers.stop("kafka")


def test_consumer_of_each_process_gets_every_message_that_comes_while_it_runs(service: Service) -> None:
    first, second = service.start(), service.start()

    def cached(process: subprocess.Popen[bytes]) -> set[str]:
        file = service.folder / f"cache-{process.pid}"
        return set(file.read_text().split()) if file.exists() else set()

    numbers = iter(range(10_000))
    sent: list[str] = []

    def both_have_one() -> bool:
        number = next(numbers)
        service.put(number, 1)
        sent.append(str(number))
        time.sleep(0.5)
        return all(cached(process) for process in (first, second))

    until(both_have_one, "both have joined")
    wanted = {str(next(numbers)) for _ in range(50)}
    service.put(min(map(int, wanted)), 50)
    until(lambda: wanted <= cached(first) and wanted <= cached(second), "both have all of them")
    late = service.start()
    time.sleep(3)
    assert cached(late) == set()
