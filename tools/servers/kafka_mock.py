"""librdkafka's mock cluster in a process of its own: it speaks the protocol from memory.

It serves producing, fetching and a group of one member. It forgets everything when it ends, knows no second member of
a group and no administration, so it is no evidence for what happens in a rebalance.

Run as a program it serves until SIGTERM: `python -m tools.servers.kafka_mock FILE` writes its address to FILE.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import signal
import sys
from pathlib import Path

from tools.servers.errors import ServerUnavailableError
from tools.servers.processes import Launch, Process, wait_until

HOW = "librdkafka mock"
_PACKAGE = "confluent-kafka"
_START_SECONDS = 20.0
_ADDRESS_FILE = "address"


def prepare(folder: Path, log: Path) -> Launch:
    if importlib.util.find_spec("confluent_kafka") is None:
        raise ServerUnavailableError(f"the {_PACKAGE} wheel, which holds a mock of Kafka, is not installed")
    root = str(Path(__file__).parents[2])
    program = (
        f"import sys; sys.path.insert(0, {root!r}); from tools.servers.kafka_mock import serve; serve(sys.argv[1])"
    )
    return Launch((sys.executable, "-c", program, str(folder / _ADDRESS_FILE)), str(log))


def version() -> str:
    return importlib.metadata.version(_PACKAGE)


def address(folder: Path, process: Process, log: Path) -> str:
    """The address on which the mock listens, as soon as it does."""
    file = folder / _ADDRESS_FILE
    wait_until(file.exists, process, what="the Kafka mock", log=str(log), seconds=_START_SECONDS)
    return file.read_text()


def serve(address_file: str) -> None:
    """Serves until SIGTERM; the address appears in the file all at once, when the mock listens."""
    from confluent_kafka import Producer  # noqa: PLC0415  only this process needs the wheel

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    brokers = cluster.list_topics(timeout=_START_SECONDS).brokers.values()
    new = Path(f"{address_file}.new")
    new.write_text(",".join(f"{broker.host}:{broker.port}" for broker in brokers))
    new.replace(address_file)
    while True:
        signal.pause()


if __name__ == "__main__":
    serve(sys.argv[1])
