"""A consumer with its inbox on PostgreSQL, with fsync on: batches against one transaction for each message.

The source is a broker in memory, so that neither side waits for a network. One handler does nothing, so that the inbox
is all; the other writes one row, by a statement of SQLAlchemy. What a backlog takes of memory is measured where
KAFKA_BOOTSTRAP names an Apache Kafka.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks import backlog
from benchmarks.append import database_for_bench
from benchmarks.timing import Figure, Ratio, Work, compare
from cqrs_fastapi import CQRS, Event, Settings
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.migrations import upgrade

COUNT = 1_000
ROUNDS = 3
KEYS = 100

effects = Table(
    "bench_effects", MetaData(), Column("n", Integer, primary_key=True), Column("key", String), Column("what", Integer)
)


WRITE = insert(effects)


class Measured(Event, name="bench.measured", topic="bench.measured"):
    key: str
    what: int


async def write(event: Measured, session: AsyncSession) -> None:
    await session.execute(WRITE, {"key": event.key, "what": event.what})


async def pass_by(_: Measured) -> None:
    """What is left is the consumer and its inbox."""


Handler = Callable[..., Awaitable[None]]


async def run() -> Sequence[Ratio | Figure]:
    """All rows."""
    async with database_for_bench() as url:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
            await connection.run_sync(effects.create)
        await engine.dispose()
        rates = [await _rate(url, handler, keys) for handler in (pass_by, write) for keys in (1, 8)]
        bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
        return [*rates, *(await backlog.run(url, bootstrap) if bootstrap else [])]


async def _rate(url: str, handler: Handler, keys: int) -> Ratio:
    async with (
        _consuming(url, keys, lambda cqrs: cqrs.on(Measured, name="shared", effects="database")(handler)) as batches,
        _consuming(url, keys, lambda cqrs: cqrs.on(Measured, name="single")(handler)) as singles,
    ):
        what = "inbox alone" if handler is pass_by else "inbox and one row"
        at_once = f"{keys} key{'s' if keys > 1 else ''} at once"
        name = f"consume in batches / a transaction each, {what}, {at_once}"
        return await compare(name, singles, batches, limit=5.0, count=COUNT, rounds=ROUNDS, at_least=True)


@asynccontextmanager
async def _consuming(url: str, keys: int, bind: Callable[[CQRS], object]) -> AsyncIterator[Work]:
    """As many messages as are asked for, from the first to the last that is settled."""
    cqrs = CQRS(
        settings=Settings(database_url=url, consumer_keys=keys, topic_partitions=1, service=f"bench-{uuid4().hex[:8]}")
    )
    bind(cqrs)
    async with cqrs.running(workers=("consumer",)):
        publisher = await cqrs.broker.publisher()

        async def work(count: int) -> None:
            await publisher.publish([_message(n) for n in range(count)])

        yield work
        await publisher.close()


def _message(n: int) -> OutgoingMessage:
    key, message_id = f"key-{n % KEYS}", uuid4()
    payload = f'{{"key":"{key}","what":{n}}}'.encode()
    headers = {"message-id": str(message_id), "type": "bench.measured", "version": "1"}
    return OutgoingMessage(message_id, "bench.measured", key, payload, headers)
