"""A Kafka and a PostgreSQL for the comparison, the processes of a system in it, and what is on its topic."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tools.servers import Servers, kafka
from tools.servers.processes import Process
from tools.servers.sql import create_database
from tools.servers.state import Started

ROOT = Path(__file__).parents[2]
_TEXT = re.compile(rb"n(\d+)of(\d+)")


@dataclass(slots=True)
class Broker:
    """Apache Kafka that can be away for as long as one likes."""

    started: Started
    process: Process

    @property
    def url(self) -> str:
        return self.started.server.url

    def down(self) -> None:
        self.process.crash()

    def up(self) -> None:
        self.process = kafka.spawn_ready(self.started.launch, self.url)


@contextmanager
def broker_at(folder: Path) -> Iterator[Broker]:
    started = kafka.start(folder / "kafka", folder / "kafka.log", only="apache")
    broker = Broker(started, started.process)
    try:
        yield broker
    finally:
        broker.process.crash()


@dataclass(frozen=True, slots=True)
class System:
    """`program` is a module below `systems`; `options` are variables of its own."""

    name: str
    program: str
    python: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """A database, a topic of one partition, and a folder, all new."""

    broker: Broker
    system: System
    database: str
    topic: str
    folder: Path

    @classmethod
    def new(cls, broker: Broker, servers: Servers, system: System, folder: Path) -> Place:
        postgres = servers.running("postgres")
        assert postgres is not None
        own = folder / secrets.token_hex(4)
        own.mkdir(parents=True)
        place = cls(broker, system, create_database(postgres.url), f"peers.{own.name}", own)
        asyncio.run(_make_topic(broker.url, place.topic))
        return place

    @property
    def out(self) -> Path:
        return self.folder / "handled"

    def handled(self) -> list[str]:
        return self.out.read_text().split() if self.out.exists() else []

    def run(self, *arguments: str, **variables: str) -> None:
        """To its end. CalledProcessError if that is a bad one."""
        subprocess.run(self._command(arguments), cwd=ROOT, env=self._environment(variables), check=True, timeout=300)

    @contextmanager
    def running(self, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """Until the block ends; then it is killed."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                self._command(arguments), cwd=ROOT, env=self._environment(variables), stdout=log, stderr=log
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait(10)

    def sent(self) -> list[tuple[int, int]]:
        """(stream, number) of each record on the topic, in its order."""
        return asyncio.run(_read(self.broker.url, self.topic))

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [self.system.python, "-m", f"tools.peers.systems.{self.system.program}", *arguments]

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PEERS_DATABASE": self.database,
            "PEERS_KAFKA": self.broker.url,
            "PEERS_TOPIC": self.topic,
            "PEERS_MARK": str(self.folder / "done"),
            "PEERS_OUT": str(self.out),
            "CQRS_SERVICE": "peers",
            "CQRS_DATABASE_URL": self.database,
            "CQRS_BROKER_URL": f"kafka://{self.broker.url}",
            "CQRS_RUN_IN_APP": "",
            "CQRS_RELAY_BATCH": "100",
            "CQRS_RELAY_POLL": "PT0.1S",
            "CQRS_RETRY_BACKOFF": "PT0.02S",
            **self.system.options,
            **variables,
        }


def until_still(look: Callable[[], int], wanted: int, *, still: float) -> int:
    """Waits until as many as wanted are seen, or nothing has changed for `still` seconds."""
    seen, since = look(), time.monotonic()
    while seen < wanted and time.monotonic() < since + still:
        time.sleep(0.5)
        now = look()
        if now != seen:
            seen, since = now, time.monotonic()
    time.sleep(1.0)  # what is sent once too often comes now
    return look()


async def send_ours(url: str, topic: str, texts: list[str]) -> None:
    """Messages as this library sends them; others read their payload alone."""
    producer = AIOKafkaProducer(bootstrap_servers=url)
    await producer.start()
    try:
        for text in texts:
            identifier = f"00000000-0000-0000-0000-{int(text[1:].partition('of')[0]):012}".encode()
            headers = [("message-id", identifier), ("type", b"peers.numbered"), ("version", b"1")]
            await producer.send_and_wait(topic, f'{{"text": "{text}"}}'.encode(), key=b"0", headers=headers)
    finally:
        await producer.stop()


async def _make_topic(url: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=url)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def _read(url: str, topic: str) -> list[tuple[int, int]]:
    place, found = TopicPartition(topic, 0), []
    consumer = AIOKafkaConsumer(bootstrap_servers=url, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end:
            records = await consumer.getmany(timeout_ms=500)
            found += [match for part in records.values() for one in part if (match := _TEXT.search(one.value))]
    finally:
        await consumer.stop()
    return [(int(match[2]), int(match[1])) for match in found]


OUR_PYTHON = sys.executable
