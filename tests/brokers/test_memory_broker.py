"""The broker in memory keeps the contract, and a kill loses nothing because it acknowledges last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from cqrs_fastapi.brokers.broker import Broker, Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.brokers.memory.broker import MemoryBroker
from cqrs_fastapi.brokers.memory.config import MemoryConfig
from cqrs_fastapi.errors import ConfigurationError, UnavailableError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.testing.contracts.broker import (
    BrokerContract,
    deliveries,
    outgoing,
    publishing,
    silence,
    take,
)
from cqrs_fastapi.testing.contracts.subscription import SubscriptionContract

pytestmark = pytest.mark.anyio


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker()
    await broker.open()
    yield broker
    await broker.close()


class OnMemory:
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]:
        broker = MemoryBroker()
        await broker.open()
        yield broker
        await broker.close()


class TestMemoryBroker(OnMemory, BrokerContract):
    pass


class TestMemorySubscriptions(OnMemory, SubscriptionContract):
    pass


async def started(broker: Broker, messages: Sequence[OutgoingMessage]) -> asyncio.Task[Sequence[Outcome]]:
    publisher = await broker.publisher()

    async def publish() -> Sequence[Outcome]:
        return await publisher.publish(messages)

    task = asyncio.create_task(publish())
    await asyncio.sleep(0)
    return task


async def test_a_message_is_acknowledged_only_when_every_declared_group_has_settled_it(broker: MemoryBroker) -> None:
    broker.declare_group("slow", ["t"])
    fast = await broker.subscribe("fast", ["t"])
    task = await started(broker, [outgoing("t", "k", b"")])
    await take(fast, 1)
    await asyncio.sleep(0)
    assert not task.done()
    await take(await broker.subscribe("slow", ["t"]), 1)
    assert deliveries(await task) == [Delivery.ACKNOWLEDGED]


async def test_receiving_without_settling_acknowledges_nothing(broker: MemoryBroker) -> None:
    subscription = await broker.subscribe("g", ["t"])
    task = await started(broker, [outgoing("t", "k", b"")])
    await take(subscription, 1, settle=False)
    await broker.close()
    assert deliveries(await task) == [Delivery.HELD]


async def test_what_a_cancelled_publisher_had_queued_is_withdrawn(broker: MemoryBroker) -> None:
    broker.declare_group("g", ["t"])
    task = await started(broker, [outgoing("t", "k", b"")])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await silence(await broker.subscribe("g", ["t"])) == []


async def test_what_a_member_has_in_hand_survives_its_publisher(broker: MemoryBroker) -> None:
    subscription = await broker.subscribe("g", ["t"])
    task = await started(broker, [outgoing("t", "k", b"in hand")])
    received = await take(subscription, 1, settle=False)
    task.cancel()
    await asyncio.wait([task])
    await subscription.close()
    again = await take(await broker.subscribe("g", ["t"]), 1)
    assert [message.payload for message in again] == [message.payload for message in received]


async def test_closing_a_publisher_holds_what_waits_and_does_not_wait_for_consumers(broker: MemoryBroker) -> None:
    broker.declare_group("g", ["t"])
    publisher = await broker.publisher()
    task = asyncio.ensure_future(publisher.publish([outgoing("t", "k", b"")]))
    await asyncio.sleep(0)
    await publisher.close()
    assert deliveries(await task) == [Delivery.HELD]
    with pytest.raises(UnavailableError):
        await publisher.publish([])


@pytest.mark.parametrize("consumer_first", [True, False])
async def test_publisher_and_consumer_may_stop_in_either_order(broker: MemoryBroker, *, consumer_first: bool) -> None:
    subscription, publisher = await broker.subscribe("g", ["t"]), await broker.publisher()
    task = asyncio.ensure_future(publisher.publish([outgoing("t", "k", b"")]))
    await take(subscription, 1, settle=False)
    async with asyncio.timeout(5):
        for closing in [subscription, publisher] if consumer_first else [publisher, subscription]:
            await closing.close()
        assert deliveries(await task) == [Delivery.HELD]


async def test_closing_the_broker_ends_a_waiting_receive(broker: MemoryBroker) -> None:
    subscription = await broker.subscribe("g", ["t"])
    task = asyncio.ensure_future(subscription.receive())
    await asyncio.sleep(0)
    await broker.close()
    with pytest.raises(UnavailableError):
        await task
    await subscription.close()


async def test_a_broker_shared_by_two_services_closes_with_the_second(broker: MemoryBroker) -> None:
    await broker.open()
    await broker.close()
    await broker.ping()
    await broker.close()
    with pytest.raises(UnavailableError, match=r"broker\.open"):
        await broker.ping()


async def test_a_joining_member_repeats_nothing_that_another_has_in_hand(broker: MemoryBroker) -> None:
    first = await broker.subscribe("g", ["t"])
    async with publishing(broker, [outgoing("t", f"key-{n}", b"") for n in range(50)]):
        in_hand = await take(first, 50, settle=False)
        second = await broker.subscribe("g", ["t"])
        assert await silence(second) == []
        await first.settle(in_hand)


async def test_a_partition_passes_to_the_new_member_when_its_holder_has_settled(broker: MemoryBroker) -> None:
    first = await broker.subscribe("g", ["t"])
    async with publishing(broker, [outgoing("t", f"key-{n}", b"") for n in range(50)]):
        in_hand = await take(first, 50, settle=False)
        second = await broker.subscribe("g", ["t"])
        async with publishing(broker, [outgoing("t", f"key-{n}", b"") for n in range(50)]):
            await first.settle(in_hand)
            shares = await asyncio.gather(first.receive(), second.receive())
            await first.settle(shares[0])
            await second.settle(shares[1])
    assert len(shares[0]) + len(shares[1]) == 50
    assert not {m.partition for m in shares[0]} & {m.partition for m in shares[1]}


async def test_what_another_member_took_over_cannot_be_settled_by_the_first(broker: MemoryBroker) -> None:
    first = await broker.subscribe("g", ["t"])
    task = await started(broker, [outgoing("t", "k", b"")])
    received = await take(first, 1, settle=False)
    await first.close()
    with pytest.raises(UnavailableError):
        await first.settle(received)
    second = await broker.subscribe("g", ["t"])
    await take(second, 1, settle=False)
    assert not task.done()
    await broker.close()
    assert deliveries(await task) == [Delivery.HELD]


async def test_a_busy_partition_does_not_starve_the_others() -> None:
    broker = MemoryBroker(MemoryConfig(batch=10))
    await broker.open()
    subscription = await broker.subscribe("g", ["busy", "quiet"])
    messages = [outgoing("busy", "k", b"") for _ in range(100)] + [outgoing("quiet", "k", b"")]
    async with publishing(broker, messages):
        topics = [message.topic for message in await take(subscription, 20)]
        assert "quiet" in topics
        await take(subscription, 101 - len(topics))
    await broker.close()


async def test_text_that_cannot_be_encoded_is_refused_and_stops_nothing_else(broker: MemoryBroker) -> None:
    messages = [outgoing("t", "\ud800", b""), outgoing("t", "k", b"", {"h": "\ud800"}), outgoing("t", "other", b"")]
    async with publishing(broker, messages) as task:
        assert deliveries(await task) == [Delivery.REFUSED, Delivery.REFUSED, Delivery.ACKNOWLEDGED]


async def test_a_refusal_behind_a_held_message_waits_for_its_turn(broker: MemoryBroker) -> None:
    broker.declare_group("g", ["t"])
    task = await started(broker, [outgoing("t", "k", b""), outgoing("t", "k", bytes(2 << 20))])
    await broker.close()
    assert deliveries(await task) == [Delivery.HELD, Delivery.HELD]


async def test_sent_at_is_the_clock_of_the_broker() -> None:
    class Still:
        def now(self) -> datetime:
            return datetime(2020, 1, 1, tzinfo=UTC)

    broker = MemoryBroker(clock=Still())
    await broker.open()
    subscription = await broker.subscribe("g", ["t"])
    async with publishing(broker, [outgoing("t", "k", b"")]):
        (received,) = await take(subscription, 1)
    assert received.sent_at == datetime(2020, 1, 1, tzinfo=UTC)
    await broker.close()


def test_options_are_read_from_the_url_and_partitions_from_the_settings() -> None:
    config = MemoryConfig.parse("memory://?batch=7&max_message_bytes=99", Settings(topic_partitions=3))
    assert config == MemoryConfig(partitions=3, batch=7, max_message_bytes=99)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("memory://?bach=7", "no option 'bach'"),
        ("memory://?batch=0", "no positive number"),
        ("memory://?batch=many", "no positive number"),
        ("memory://host", "write: memory://"),
    ],
)
def test_a_wrong_url_is_told_what_to_write(url: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        MemoryConfig.parse(url, Settings())
