"""How much memory a consumer takes that is a million messages behind, on Apache Kafka and PostgreSQL.

The consumer is a process of its own: `python -m benchmarks.backlog` is what `consume` starts. It prints by how many
megabytes it has grown at most since it was idle, and how many messages it has handled meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from uuid import uuid4

from benchmarks.timing import Figure
from cqrs_fastapi import CQRS, Event, Settings
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.brokers.kafka.broker import KafkaBroker
from cqrs_fastapi.brokers.kafka.config import KafkaConfig

MESSAGES = 1_000_000
SECONDS = 20
_PART = 10_000
_NOTE = "a note that makes the event about as long as events are, which is a hundred bytes"


class Late(Event, name="bench.late", topic=os.environ.get("BENCH_TOPIC", "bench.late")):
    n: int
    note: str


async def run(url: str, bootstrap: str) -> list[Figure]:
    """Puts them into a topic of four partitions, and lets a process consume for a while."""
    topic = f"bench-backlog-{uuid4().hex}"
    await _fill(bootstrap, topic)
    program = (sys.executable, "-m", "benchmarks.backlog", url, bootstrap)
    process = await asyncio.create_subprocess_exec(
        *program, stdout=asyncio.subprocess.PIPE, env={**os.environ, "BENCH_TOPIC": topic}
    )
    output, _ = await process.communicate()
    grown, handled = output.decode().split()[-2:]
    return [
        Figure("consumer 1 million behind on Kafka: memory grown, MB", float(grown), 64, at_least=False),
        Figure(f"  messages handled meanwhile, in {SECONDS} s", float(handled)),
    ]


async def _fill(bootstrap: str, topic: str) -> None:
    broker = KafkaBroker(KafkaConfig((bootstrap,), partitions=4))
    await broker.ensure_topics([topic])
    publisher = await broker.publisher()
    for first in range(0, MESSAGES, _PART):
        outcomes = await publisher.publish([_message(topic, n) for n in range(first, first + _PART)])
        if any(outcome.reason for outcome in outcomes):
            raise RuntimeError(next(outcome.reason for outcome in outcomes if outcome.reason))
    await broker.close()


def _message(topic: str, n: int) -> OutgoingMessage:
    message_id = uuid4()
    headers = {"message-id": str(message_id), "type": "bench.late", "version": "1"}
    return OutgoingMessage(message_id, topic, f"key-{n % 1000}", f'{{"n":{n},"note":"{_NOTE}"}}'.encode(), headers)


async def _consume(url: str, bootstrap: str) -> None:
    settings = Settings(
        database_url=url, broker_url=f"kafka://{bootstrap}", service=f"bench-{uuid4().hex[:8]}", create_topics=False
    )
    cqrs, handled = CQRS(settings=settings), 0

    @cqrs.on(Late, name="late", effects="database")
    async def late(_: Late) -> None:
        nonlocal handled
        handled += 1

    async with cqrs.running(workers=()):
        before = peak = _resident()
    async with cqrs.running(workers=("consumer",)):
        for _ in range(SECONDS * 10):
            await asyncio.sleep(0.1)
            peak = max(peak, _resident())
    print(f"{(peak - before) / (1 << 20):.1f} {handled}")


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    asyncio.run(_consume(*sys.argv[1:]))
