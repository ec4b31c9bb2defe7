"""Apache Kafka as one small process: broker and controller in one (KRaft), on Java, from Maven Central's jars."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.servers.kafka_jars import find_java, jars
from tools.servers.ports import LOOPBACK, free_port
from tools.servers.processes import Launch, run

VERSION = "4.1.1"
_FORMAT_SECONDS = 60.0
# The metaspace and the heap are what a broker with some hundred topics needs, not what a machine has.
_JVM = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:MaxMetaspaceSize=160m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def prepare(
    folder: Path, log: Path, *, listeners: Sequence[Listener] = (), users: Sequence[str] = ()
) -> tuple[Launch, str]:
    """Formats the storage of a new cluster and tells how to start its broker, and its address. `users` are SCRAM's, as
    the storage tool takes them.
    """
    command = _command()
    port = free_port()
    properties = folder / "server.properties"
    settings = _settings(folder / "data", port, free_port())
    for listener in listeners:
        listener.add_to(settings)
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # The `=` matters: an id may begin with a hyphen, which reads as an option where it stands alone.
    storage = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(properties))
    scram = tuple(f"--add-scram={user}" for user in users)
    run((*command, *storage, *scram), seconds=_FORMAT_SECONDS)
    return Launch((*command, "kafka.Kafka", str(properties)), str(log)), f"{LOOPBACK}:{port}"


@dataclass(frozen=True, slots=True)
class Listener:
    """One more way to reach the broker. `properties` are those of this listener alone, without their prefix."""

    name: str
    protocol: str
    port: int
    properties: Mapping[str, str]

    def add_to(self, settings: dict[str, str | int | Path]) -> None:
        address = f"{self.name}://{LOOPBACK}:{self.port}"
        for key, more in (
            ("listeners", address),
            ("advertised.listeners", address),
            ("listener.security.protocol.map", f"{self.name}:{self.protocol}"),
        ):
            settings[key] = f"{settings[key]},{more}"
        prefix = f"listener.name.{self.name.lower()}."
        settings.update({prefix + key: value for key, value in self.properties.items()})


def _command() -> tuple[str, ...]:
    java = find_java()
    # Java itself expands this `*`; a list of files in its place would name the first jar as the class to run.
    return (str(java), *_JVM, "-cp", f"{jars(VERSION)}/*")


def _settings(data: Path, port: int, controller_port: int) -> dict[str, str | int | Path]:
    """One broker that is its own controller; topics exist only when somebody declares them, as in production."""
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": data,
        "num.partitions": 3,
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "log.cleaner.dedupe.buffer.size": 2 * 1024 * 1024,  # the default of 128 MiB is taken at once: half the heap
        "log.segment.bytes": 16 * 1024 * 1024,
        "log.index.size.max.bytes": 1024 * 1024,
        "broker.session.timeout.ms": 4000,  # how long the controller refuses a broker that comes back after a crash
        "broker.heartbeat.interval.ms": 500,
        "num.network.threads": 1,
        "num.io.threads": 2,
        "background.threads": 2,
    }
