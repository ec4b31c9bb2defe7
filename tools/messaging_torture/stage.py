"""Where a run takes place: servers of its own, two databases and a topic made for it, and its processes."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.migrations import upgrade
from tools.messaging_checker.written import CALLS
from tools.messaging_torture.apps.entries import metadata
from tools.messaging_torture.plan import PARTITIONS, Plan
from tools.messaging_torture.workers import ROOT, Worker
from tools.servers import NAMES, Servers
from tools.servers.ports import free_port
from tools.servers.sql import create_database

WRITING, READING = "torture-writing", "torture-reading"


@contextmanager
def servers_at(folder: Path) -> Iterator[Servers]:
    """PostgreSQL and Apache Kafka that nobody else uses, whatever the environment names; gone at the end."""
    servers = Servers(folder / "servers", {"CQRS_SERVERS_KAFKA": "apache"})
    try:
        for name in NAMES:
            servers.start(name)
        yield servers
    finally:
        for name in NAMES:
            servers.stop(name)


@dataclass(frozen=True, slots=True)
class Stage:
    """The databases as URLs for SQLAlchemy."""

    plan: Plan
    servers: Servers
    writing: str
    reading: str
    kafka: str
    topic: str
    outside_port: int
    writer_ports: tuple[int, ...]

    def workers(self) -> list[Worker]:
        app = "tools.messaging_torture.apps"
        found = [
            Worker(f"writer{n}", "writer", ("uvicorn", f"{app}.writing:app", str(port)), self._environment(WRITING))
            for n, port in enumerate(self.writer_ports, start=1)
        ]
        for n in range(1, self.plan.relays + 1):
            command = ("cqrs", "relay", f"{app}.writing:cqrs")
            found.append(Worker(f"relay{n}", "relay", command, self._environment(WRITING)))
        for n in range(1, self.plan.consumers + 1):
            command = ("cqrs", "consume", f"{app}.reading:cqrs")
            found.append(Worker(f"consumer{n}", "consumer", command, self._environment(READING)))
        return found

    def _environment(self, service: str) -> dict[str, str]:
        return {
            "CQRS_SERVICE": service,
            "CQRS_DATABASE_URL": self.writing if service == WRITING else self.reading,
            "CQRS_BROKER_URL": f"kafka://{self.kafka}?session_timeout_ms=6000&request_timeout_ms=5000",
            "CQRS_RUN_IN_APP": "consumer",
            "CQRS_POOL_SIZE": "8",
            "CQRS_TOPIC_PARTITIONS": str(PARTITIONS),
            "CQRS_RELAY_BATCH": str(self.plan.relay_batch),
            "CQRS_RELAY_POLL": "PT0.1S",
            "CQRS_CONSUMER_KEYS": str(self.plan.at_once),
            "CQRS_RETRY_BACKOFF": "PT0.02S",
            "CQRS_DRAIN_TIMEOUT": "PT5S",
            "TORTURE_TOPIC": self.topic,
            "TORTURE_OUTSIDE": str(self.outside_port),
            "TORTURE_SEED": str(self.plan.seed),
        }


@contextmanager
def stage_of(plan: Plan, servers: Servers) -> Iterator[Stage]:
    """Fresh databases and a topic of a new name; the ledger outside listens."""
    postgres, kafka = servers.running("postgres"), servers.running("kafka")
    assert postgres is not None
    assert kafka is not None
    writing, reading = create_database(postgres.url), create_database(postgres.url)
    for url in (writing, reading):
        asyncio.run(_make_tables(url))
    with _ledger_outside(plan) as port:
        ports = tuple(free_port() for _ in range(plan.writers))
        topic = f"torture.{secrets.token_hex(4)}"
        yield Stage(plan, servers, writing, reading, kafka.url, topic, port, ports)


async def _make_tables(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


@contextmanager
def _ledger_outside(plan: Plan) -> Iterator[int]:
    arguments = [str(plan.folder / CALLS), str(plan.seed), str(plan.poison_key), "10"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.messaging_torture.ledger_server", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def plain(url: str) -> str:
    """The same database for asyncpg alone."""
    return url.replace("postgresql+asyncpg://", "postgresql://")


def ask(url: str, statement: str, *values: object) -> list[Mapping[str, Any]]:
    """The rows of one statement, on a connection of its own. OSError or PostgresError if there is no answer."""

    async def run() -> list[Mapping[str, Any]]:
        connection = await asyncpg.connect(plain(url), timeout=5)
        try:
            return list(await connection.fetch(statement, *values, timeout=20))
        finally:
            await connection.close()

    return asyncio.run(run())
