"""What every broker adapter promises. Subclass it in a test module and give it a broker:

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        async def broker(self) -> AsyncIterator[Broker]:
            broker = MyBroker(...)
            await broker.open()
            yield broker
            await broker.close()

It assumes nothing about when a message is acknowledged: an adapter may wait until its consumers have settled it.
"""

# ruff: noqa: S101 -- a suite asserts, and its numbers are the cases themselves.

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi.brokers.broker import (
    Broker,
    Delivery,
    IncomingMessage,
    Outcome,
    OutgoingMessage,
    Subscription,
)

PATIENCE = 60.0
"""Seconds until something that should come is given up."""
SILENCE = 1.0
"""Seconds in which something that should not come must not come."""


def outgoing(topic: str, key: str | None, payload: bytes, headers: dict[str, str] | None = None) -> OutgoingMessage:
    return OutgoingMessage(uuid4(), topic, key, payload, headers or {})


def message_id(message: IncomingMessage) -> UUID:
    return UUID(message.headers["message-id"].decode())


@asynccontextmanager
async def publishing(broker: Broker, messages: Sequence[OutgoingMessage]) -> AsyncIterator[asyncio.Task[list[Outcome]]]:
    """Publish beside the test, which has to consume before some adapters acknowledge."""
    publisher = await broker.publisher()

    async def publish() -> list[Outcome]:
        return list(await publisher.publish(messages))

    task = asyncio.create_task(publish())
    try:
        yield task
        async with asyncio.timeout(PATIENCE):
            await task
    finally:
        task.cancel()
        await publisher.close()


async def take(subscription: Subscription, count: int, *, settle: bool = True) -> list[IncomingMessage]:
    """Receive this many messages at least."""
    taken: list[IncomingMessage] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            batch = await subscription.receive()
            if settle:
                await subscription.settle(batch)
            taken += batch
    return taken


async def silence(subscription: Subscription) -> list[IncomingMessage]:
    """What comes although nothing should."""
    try:
        async with asyncio.timeout(SILENCE):
            return list(await subscription.receive())
    except TimeoutError:
        return []


def deliveries(outcomes: Iterable[Outcome]) -> list[Delivery]:
    return [outcome.delivery for outcome in outcomes]


class BrokerContract:
    """Override `broker`; override the others where the defaults do not fit."""

    pytestmark = pytest.mark.anyio

    too_large: ClassVar[int] = 2 << 20
    """Bytes of a payload that the broker under test refuses for good."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def broker(self) -> Broker:
        raise NotImplementedError("override the fixture `broker` and yield an open one")

    @pytest.fixture
    async def second_connection(self, broker: Broker) -> Broker:
        """Another connection to the same broker; one in memory has only itself."""
        return broker

    @pytest.fixture
    def several_members(self) -> None:
        """Override and call `pytest.skip` where the server under test cannot share a group."""

    @pytest.fixture
    async def topic(self, broker: Broker) -> str:
        topic = f"contract-{uuid4().hex}"
        await broker.ensure_topics([topic])
        return topic

    @pytest.fixture
    def group(self) -> str:
        """Servers are shared and keep their groups, so each test has its own."""
        return f"contract-{uuid4().hex}"

    async def test_an_open_broker_answers_a_ping(self, broker: Broker) -> None:
        await broker.ping()

    async def test_topics_may_be_ensured_twice(self, broker: Broker, topic: str) -> None:
        await broker.ensure_topics([topic])

    async def test_a_message_arrives_as_it_was_sent(self, broker: Broker, topic: str, group: str) -> None:
        payload, headers = bytes(range(256)), {"type": "ordre.passé", "tenant": "Zürich 東京", "empty": ""}
        sent = outgoing(topic, "schlüssel-鍵", payload, headers)
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, [sent]) as task:
            (received,) = await take(subscription, 1)
            assert deliveries(await task) == [Delivery.ACKNOWLEDGED]
        await subscription.close()
        assert (received.topic, received.key, received.payload) == (topic, "schlüssel-鍵".encode(), payload)
        assert {name: received.headers[name].decode() for name in headers} == headers
        assert message_id(received) == sent.message_id
        assert received.sent_at.utcoffset() is not None

    async def test_an_empty_payload_and_no_key_arrive_as_such(self, broker: Broker, topic: str, group: str) -> None:
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, [outgoing(topic, None, b"")]):
            (received,) = await take(subscription, 1)
        await subscription.close()
        assert (received.key, received.payload) == (None, b"")

    async def test_a_message_id_given_as_a_header_is_kept(self, broker: Broker, topic: str, group: str) -> None:
        subscription, given = await broker.subscribe(group, [topic]), str(uuid4())
        async with publishing(broker, [outgoing(topic, "k", b"", {"message-id": given})]):
            (received,) = await take(subscription, 1)
        await subscription.close()
        assert received.headers["message-id"] == given.encode()

    async def test_each_key_keeps_its_order_and_its_partition(self, broker: Broker, topic: str, group: str) -> None:
        messages = [outgoing(topic, f"key-{n % 37}", str(n).encode()) for n in range(500)]
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, messages) as task:
            received = await take(subscription, len(messages))
            assert set(deliveries(await task)) == {Delivery.ACKNOWLEDGED}
        await subscription.close()
        per_key: defaultdict[bytes | None, list[int]] = defaultdict(list)
        places: defaultdict[bytes | None, set[int]] = defaultdict(set)
        for message in received:
            per_key[message.key].append(int(message.payload))
            places[message.key].add(message.partition)
        assert len(received) == len(messages)
        assert all(numbers == sorted(numbers) for numbers in per_key.values())
        assert all(len(partitions) == 1 for partitions in places.values())

    async def test_offsets_ascend_in_a_partition(self, broker: Broker, topic: str, group: str) -> None:
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, [outgoing(topic, f"key-{n % 5}", b"") for n in range(50)]):
            received = await take(subscription, 50)
        await subscription.close()
        per_partition: defaultdict[int, list[int]] = defaultdict(list)
        for message in received:
            per_partition[message.partition].append(message.offset)
        assert all(offsets == sorted(set(offsets)) for offsets in per_partition.values())

    async def test_two_groups_each_get_every_message(self, broker: Broker, topic: str, group: str) -> None:
        messages = [outgoing(topic, f"key-{n}", b"") for n in range(20)]
        first = await broker.subscribe(f"{group}-first", [topic])
        second = await broker.subscribe(f"{group}-second", [topic])
        async with publishing(broker, messages):
            received = await asyncio.gather(take(first, 20), take(second, 20))
        await first.close()
        await second.close()
        expected = {message.message_id for message in messages}
        assert [{message_id(message) for message in batch} for batch in received] == [expected, expected]

    @pytest.mark.usefixtures("several_members")
    async def test_two_members_share_a_group_and_lose_nothing(
        self, broker: Broker, second_connection: Broker, topic: str, group: str
    ) -> None:
        messages = [outgoing(topic, f"key-{n}", b"") for n in range(200)]
        expected = {message.message_id for message in messages}
        members = [await broker.subscribe(group, [topic]), await second_connection.subscribe(group, [topic])]
        seen: set[UUID] = set()

        async def consume(member: Subscription) -> None:
            while seen != expected:
                batch = await member.receive()
                seen.update(message_id(message) for message in batch)
                await member.settle(batch)

        tasks = [asyncio.create_task(consume(member)) for member in members]
        async with asyncio.timeout(PATIENCE), publishing(broker, messages):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in members:
            await member.close()
        assert seen == expected

    async def test_what_was_not_settled_comes_again_to_the_next_member(
        self, broker: Broker, topic: str, group: str
    ) -> None:
        messages = [outgoing(topic, "k", str(n).encode()) for n in range(3)]
        first = await broker.subscribe(group, [topic])
        async with publishing(broker, messages):
            received = await take(first, 3, settle=False)
            await first.settle(received[:1])
            await first.close()
            second = await broker.subscribe(group, [topic])
            again = await take(second, 2)
        await second.close()
        assert [message.payload for message in again] == [b"1", b"2"]

    async def test_what_was_settled_does_not_come_again(self, broker: Broker, topic: str, group: str) -> None:
        first = await broker.subscribe(group, [topic])
        async with publishing(broker, [outgoing(topic, "k", b"settled")]):
            await take(first, 1)
        await first.close()
        second = await broker.subscribe(group, [topic])
        async with publishing(broker, [outgoing(topic, "k", b"next")]):
            received = await take(second, 1)
        await second.close()
        assert [message.payload for message in received] == [b"next"]

    async def test_a_cancelled_receive_loses_nothing(self, broker: Broker, topic: str, group: str) -> None:
        subscription = await broker.subscribe(group, [topic])
        assert await silence(subscription) == []
        async with publishing(broker, [outgoing(topic, "k", b"late")]):
            (received,) = await take(subscription, 1)
        await subscription.close()
        assert received.payload == b"late"

    async def test_a_refused_message_holds_only_the_followers_of_its_key(
        self, broker: Broker, topic: str, group: str
    ) -> None:
        messages = [
            outgoing(topic, "bad", b"before"),
            outgoing(topic, "good", b"1"),
            outgoing(topic, "bad", bytes(self.too_large)),
            outgoing(topic, "bad", b"follower"),
            outgoing(topic, "good", b"2"),
        ]
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, messages) as task:
            received = await take(subscription, 3)
            outcomes = await task
        # The same key again: had the follower been sent, it would come first.
        async with publishing(broker, [outgoing(topic, "bad", b"after")]):
            received += await take(subscription, 1)
        await subscription.close()
        acknowledged, refused, held = Delivery.ACKNOWLEDGED, Delivery.REFUSED, Delivery.HELD
        assert deliveries(outcomes) == [acknowledged, acknowledged, refused, held, acknowledged]
        assert {message.payload for message in received} == {b"before", b"1", b"2", b"after"}
        assert outcomes[2].reason

    async def test_a_name_that_is_no_topic_is_refused(self, broker: Broker, topic: str) -> None:
        async with publishing(broker, [outgoing("not a topic!", "k", b""), outgoing(topic, "k", b"")]) as task:
            assert deliveries(await task) == [Delivery.REFUSED, Delivery.ACKNOWLEDGED]

    async def test_publishing_to_a_topic_nobody_consumes_is_acknowledged(self, broker: Broker, topic: str) -> None:
        async with publishing(broker, [outgoing(topic, "k", b"")]) as task:
            assert deliveries(await task) == [Delivery.ACKNOWLEDGED]

    async def test_publishing_nothing_is_no_error(self, broker: Broker) -> None:
        async with publishing(broker, []) as task:
            assert await task == []

    async def test_a_message_for_a_declared_group_waits_for_its_first_member(
        self, broker: Broker, topic: str, group: str
    ) -> None:
        broker.declare_group(group, [topic])
        async with publishing(broker, [outgoing(topic, "k", b"early")]):
            subscription = await broker.subscribe(group, [topic])
            (received,) = await take(subscription, 1)
        await subscription.close()
        assert received.payload == b"early"
