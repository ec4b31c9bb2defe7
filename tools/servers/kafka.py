"""Kafka: Apache's own broker where this machine can have it, else librdkafka's imitation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from tools.servers import kafka_apache, kafka_mock
from tools.servers.apart import run_apart
from tools.servers.errors import ServerUnavailableError
from tools.servers.ports import listening
from tools.servers.processes import Launch, Process, spawn, wait_until
from tools.servers.state import Server, Started

_START_SECONDS = 60.0
_ANSWER_MILLISECONDS = 5_000


def start(folder: Path, log: Path, *, only: str | None = None) -> Started:
    """Starts a broker in a new folder, which the caller removes; `only` is `apache` or `mock`.

    The imitation steps in only where Apache's broker cannot be had; one that was had and does not start is an error.
    """
    folder.mkdir(parents=True)
    if only == "mock":
        return _mock(folder, log, note="")
    try:
        return _apache(folder, log)
    except ServerUnavailableError as missing:
        if only == "apache":
            raise
        return _mock(folder, log, note=str(missing).splitlines()[0])


def spawn_ready(launch: Launch, url: str) -> Process:
    """Starts the broker and returns when it answers a metadata request; one that does not is stopped again."""
    process = spawn(launch)
    try:
        wait_until(lambda: answers(url), process, what="Kafka", log=launch.log, seconds=_START_SECONDS)
    except BaseException:
        process.crash()
        raise
    return process


def answers(url: str) -> bool:
    """Whether the broker at `host:port` answers a metadata request that names at least one broker."""
    host, _, port = url.split(",", maxsplit=1)[0].rpartition(":")
    return listening(host, int(port)) and run_apart(lambda: _metadata(url)).brokers > 0


def has_controller(url: str) -> bool:
    """Whether the cluster names its controller. Apache's brokers always do; librdkafka's mock never does."""
    return run_apart(lambda: _metadata(url)).controller


@dataclass(frozen=True, slots=True)
class _Metadata:
    brokers: int
    controller: bool


async def _metadata(url: str) -> _Metadata:
    client = AIOKafkaClient(bootstrap_servers=url, request_timeout_ms=_ANSWER_MILLISECONDS)
    try:
        await client.bootstrap()
        return _Metadata(len(client.cluster.brokers()), client.cluster.controller is not None)
    except KafkaError:
        return _Metadata(0, controller=False)
    finally:
        await client.close()


def _apache(folder: Path, log: Path) -> Started:
    launch, url = kafka_apache.prepare(folder, log)
    server = Server("kafka", f"apache-kafka {kafka_apache.VERSION}", "", url)
    return Started(server, spawn_ready(launch, url), launch)


def _mock(folder: Path, log: Path, *, note: str) -> Started:
    launch = kafka_mock.prepare(folder, log)
    process = spawn(launch)
    try:
        url = kafka_mock.address(folder, process, log)
    except BaseException:
        process.crash()
        raise
    server = Server("kafka", kafka_mock.HOW, kafka_mock.version(), url, real=False, note=note)
    return Started(server, process, launch)
