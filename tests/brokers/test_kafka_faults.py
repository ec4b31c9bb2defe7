"""Kafka is away, silent, killed or frozen: everything ends in bounded time, and nothing is lost or overtaken."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi.brokers.broker import Delivery, IncomingMessage, OutgoingMessage, Publisher, Subscription
from cqrs_fastapi.brokers.kafka.broker import KafkaBroker
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.testing.contracts.broker import deliveries, message_id, outgoing, publishing, take
from tools.servers import kafka
from tools.servers.errors import ServerUnavailableError
from tools.servers.ports import free_port
from tools.servers.state import Started

pytestmark = pytest.mark.anyio


def hasty(address: str) -> KafkaBroker:
    return KafkaBroker(
        KafkaConfig(
            (address,),
            partitions=2,
            request_timeout_ms=2000,
            ack_timeout_ms=2000,
            stall_timeout_ms=1500,
            session_timeout_ms=6000,
        )
    )


@pytest.fixture(params=["refused", "silent"])
async def nobody(request: pytest.FixtureRequest) -> AsyncIterator[KafkaBroker]:
    """No server, or one that accepts connections and says nothing."""
    if request.param == "refused":
        yield hasty(f"127.0.0.1:{free_port()}")
        return
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    yield hasty(f"127.0.0.1:{port}")
    for connection in connections:
        connection.close()
    server.close()
    await server.wait_closed()


async def test_without_a_broker_every_call_says_so_in_bounded_time(nobody: KafkaBroker) -> None:
    await nobody.open()
    publisher, subscription = await nobody.publisher(), await nobody.subscribe("g", ["t"])
    async with asyncio.timeout(30):
        with pytest.raises(UnavailableError, match="does not answer"):
            await nobody.ping()
        with pytest.raises(UnavailableError):
            await publisher.publish([outgoing("t", "k", b"")])
        with pytest.raises(UnavailableError):
            await subscription.receive()
        with pytest.raises(UnavailableError):
            await nobody.ensure_topics(["t"])
        await nobody.close()


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Started]]:
    """A real broker that this module may kill; the list holds its present process."""
    folder = tmp_path_factory.mktemp("kafka")
    try:
        present = [kafka.start(folder / "server", folder / "log", only="apache")]
    except ServerUnavailableError as missing:
        pytest.skip(f"needs a broker of its own: {missing}")
    yield present
    present[0].process.crash()


async def publish_until_acknowledged(publisher: Publisher, messages: list[OutgoingMessage]) -> int:
    """What a relay does: send again, in order, whatever was not acknowledged. Returns how often it had to."""
    rounds = 0
    while messages:
        try:
            outcomes = await publisher.publish(messages[:50])
        except UnavailableError:
            await asyncio.sleep(0.1)
        else:
            kept = [m for m, d in zip(messages, deliveries(outcomes), strict=False) if d is not Delivery.ACKNOWLEDGED]
            messages = kept + messages[50:]
        rounds += 1
    return rounds


async def consume_until(
    subscription: Subscription, expected: set[UUID], seen: list[IncomingMessage], under_way: asyncio.Event
) -> None:
    missing = set(expected)
    while missing:
        try:
            batch = await subscription.receive()
            under_way.set()
            seen += batch
            missing.difference_update(message_id(message) for message in batch)
            await subscription.settle(batch)
        except UnavailableError:
            await asyncio.sleep(0.1)


def first_occurrences(seen: list[IncomingMessage]) -> dict[bytes | None, list[int]]:
    numbers: defaultdict[bytes | None, list[int]] = defaultdict(list)
    known: set[bytes] = set()
    for message in seen:
        if message.payload not in known:
            known.add(message.payload)
            numbers[message.key].append(int(message.payload))
    return numbers


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_fault_while_publishing_and_consuming_loses_and_overtakes_nothing(
    own_kafka: list[Started], fault: str
) -> None:
    started = own_kafka[0]
    broker = hasty(started.server.url)
    topic, group = f"faults-{uuid4().hex}", f"faults-{uuid4().hex}"
    await broker.ensure_topics([topic])
    messages = [outgoing(topic, f"key-{n % 7}", str(n).encode()) for n in range(20_000)]
    seen: list[IncomingMessage] = []
    under_way = asyncio.Event()
    publisher, subscription = await broker.publisher(), await broker.subscribe(group, [topic])
    publishing = asyncio.create_task(publish_until_acknowledged(publisher, messages))
    consuming = asyncio.create_task(consume_until(subscription, {m.message_id for m in messages}, seen, under_way))
    await under_way.wait()
    if fault == "kill":
        await asyncio.to_thread(started.process.crash)
        await asyncio.sleep(1)
        process = await asyncio.to_thread(kafka.spawn_ready, started.launch, started.server.url)
        own_kafka[0] = Started(started.server, process, started.launch)
    else:
        os.kill(started.process.pid, signal.SIGSTOP)
        await asyncio.sleep(5)
        os.kill(started.process.pid, signal.SIGCONT)
    async with asyncio.timeout(60):
        rounds = await publishing
        await consuming
    await broker.close()
    assert rounds > 20_000 // 50
    assert all(numbers == sorted(numbers) for numbers in first_occurrences(seen).values())


async def test_closing_while_the_broker_is_frozen_ends_in_bounded_time(own_kafka: list[Started]) -> None:
    started = own_kafka[0]
    broker = hasty(started.server.url)
    topic = f"faults-{uuid4().hex}"
    await broker.ensure_topics([topic])
    subscription = await broker.subscribe(f"faults-{uuid4().hex}", [topic])
    async with publishing(broker, [outgoing(topic, "k", b"1")]):
        received = await take(subscription, 1, settle=False)
    publisher = await broker.publisher()
    await publisher.publish([outgoing(topic, "k", b"2")])
    os.kill(started.process.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(40):
            with pytest.raises(UnavailableError):
                await subscription.settle(received)
            assert deliveries(await publisher.publish([outgoing(topic, "k", b"3")])) == [Delivery.HELD]
            await broker.close()
    finally:
        os.kill(started.process.pid, signal.SIGCONT)
