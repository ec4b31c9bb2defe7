"""The broker on Kafka keeps the contract, and what it adds to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import Broker, Delivery, Place, Subscription
from cqrs_fastapi.brokers.kafka.broker import KafkaBroker
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.subscription import KafkaSubscription
from cqrs_fastapi.errors import ConfigurationError, UnavailableError
from cqrs_fastapi.testing.contracts.broker import BrokerContract, deliveries, outgoing, publishing, silence, take
from cqrs_fastapi.testing.contracts.subscription import SubscriptionContract

pytestmark = pytest.mark.anyio


class OnKafka:
    @pytest.fixture
    async def broker(self, kafka_bootstrap: str) -> AsyncIterator[Broker]:
        broker = KafkaBroker(KafkaConfig((kafka_bootstrap,)))
        await broker.open()
        yield broker
        await broker.close()

    @pytest.fixture
    async def second_connection(self, kafka_bootstrap: str) -> AsyncIterator[Broker]:
        broker = KafkaBroker(KafkaConfig((kafka_bootstrap,), client_id="second"))
        await broker.open()
        yield broker
        await broker.close()

    @pytest.fixture
    def several_members(self, real_kafka: str) -> None:
        """Only a real server can rebalance."""


class TestKafkaBroker(OnKafka, BrokerContract):
    pass


class TestKafkaSubscriptions(OnKafka, SubscriptionContract):
    pass


@pytest.fixture
async def broker(kafka_bootstrap: str) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(KafkaConfig((kafka_bootstrap,), partitions=1, stall_timeout_ms=1000))
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def topic(broker: KafkaBroker) -> str:
    topic = f"kafka-{uuid4().hex}"
    await broker.ensure_topics([topic])
    return topic


@pytest.fixture
def group() -> str:
    return f"kafka-{uuid4().hex}"


async def test_an_offset_beyond_the_end_is_an_error_and_no_jump(
    kafka_bootstrap: str, broker: KafkaBroker, topic: str, group: str
) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    await consumer.commit({TopicPartition(topic, 0): 1000})
    await consumer.stop()
    subscription = await broker.subscribe(group, [topic])
    async with publishing(broker, [outgoing(topic, "k", b"")]):
        reason = (await stranded(subscription))[Place(topic, 0)]
    assert f"{topic}[0] at 1000" in reason
    assert "--reset-offsets" in reason


async def test_a_stranded_partition_does_not_hold_up_another(
    kafka_bootstrap: str, broker: KafkaBroker, topic: str, group: str
) -> None:
    other = f"kafka-{uuid4().hex}"
    await broker.ensure_topics([other])
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    await consumer.commit({TopicPartition(topic, 0): 1000})
    await consumer.stop()
    subscription = await broker.subscribe(group, [topic, other])
    async with publishing(broker, [outgoing(other, "k", b"1"), outgoing(topic, "k", b"lost")]):
        received = await take(subscription, 1)
        await stranded(subscription)
        async with publishing(broker, [outgoing(other, "k", b"2")]):
            received += await take(subscription, 1)
    assert [message.payload for message in received] == [b"1", b"2"]


async def stranded(subscription: Subscription) -> Mapping[Place, str]:
    """Receive until it says that it cannot go on somewhere."""
    receiving = asyncio.ensure_future(subscription.receive())
    async with asyncio.timeout(30):
        while not subscription.stranded():
            await asyncio.sleep(0.05)
    receiving.cancel()
    await asyncio.wait({receiving})
    return subscription.stranded()


async def test_an_offset_that_retention_has_passed_is_an_error_and_no_jump(
    real_kafka: str, broker: KafkaBroker, topic: str, group: str
) -> None:
    first = await broker.subscribe(group, [topic])
    async with publishing(broker, [outgoing(topic, "k", str(n).encode()) for n in range(5)]):
        received = await take(first, 5, settle=False)
    await first.settle(received[:2])
    await first.close()
    await _delete_records(real_kafka, TopicPartition(topic, 0), before=4)
    assert "[0] at 2" in (await stranded(await broker.subscribe(group, [topic])))[Place(topic, 0)]


async def _delete_records(bootstrap: str, place: TopicPartition, *, before: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_records({place: RecordsToDelete(before_offset=before)})
    await admin.close()


async def test_a_topic_may_come_after_its_subscriber(broker: KafkaBroker, group: str) -> None:
    topic = f"kafka-{uuid4().hex}"
    subscription = await broker.subscribe(group, [topic])
    assert await silence(subscription) == []
    await broker.ensure_topics([topic])
    async with publishing(broker, [outgoing(topic, "k", b"first")]):
        (received,) = await take(subscription, 1)
    assert received.payload == b"first"


async def test_a_topic_that_does_not_exist_holds_its_messages_and_no_others(
    real_kafka: str, broker: KafkaBroker, topic: str
) -> None:
    messages = [outgoing(f"missing-{uuid4().hex}", "k", b""), outgoing(topic, "k", b"")]
    async with publishing(broker, messages) as task:
        outcomes = await task
    assert deliveries(outcomes) == [Delivery.UNKNOWN_TOPIC, Delivery.ACKNOWLEDGED]
    assert "knows no topic" in outcomes[0].reason


async def test_a_limit_of_the_topic_refuses_one_message_and_the_rest_of_its_batch_passes(
    real_kafka: str, broker: KafkaBroker, group: str
) -> None:
    topic = f"small-{uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=real_kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "2000"})])
    await admin.close()
    messages = [
        outgoing(topic, "a", b"a1"),
        outgoing(topic, "a", bytes(5000)),
        outgoing(topic, "b", b"b1"),
        outgoing(topic, "a", b"a3"),
        outgoing(topic, "b", b"b2"),
    ]
    subscription = await broker.subscribe(group, [topic])
    async with publishing(broker, messages) as task:
        outcomes = await task
    received = await take(subscription, 3)
    acknowledged, refused, held = Delivery.ACKNOWLEDGED, Delivery.REFUSED, Delivery.HELD
    assert deliveries(outcomes) == [acknowledged, refused, acknowledged, held, acknowledged]
    assert [message.payload for message in received] == [b"a1", b"b1", b"b2"]


async def test_a_joining_member_leads_to_repeats_but_neither_to_losses_nor_to_errors(
    real_kafka: str, broker: KafkaBroker, group: str
) -> None:
    topic = f"kafka-{uuid4().hex}"
    wide = KafkaBroker(KafkaConfig((real_kafka,), partitions=4))
    await wide.ensure_topics([topic])
    messages = [outgoing(topic, f"key-{n}", str(n).encode()) for n in range(100)]
    first, second = await wide.subscribe(group, [topic]), await wide.subscribe(group, [topic])
    async with publishing(wide, messages):
        in_hand = await take(first, 100, settle=False)
    # The second member joins while the first has everything in hand, and gets what is now its own.
    joined = asyncio.ensure_future(second.receive())
    again = await first.receive()
    theirs = await joined
    await first.settle(in_hand)
    await first.settle(again)
    await second.settle(theirs)
    seen = {message.payload for message in (*again, *theirs)}
    async with asyncio.timeout(30):
        while len(seen) < 100:
            for member in (first, second):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        batch = await member.receive()
                        seen.update(message.payload for message in batch)
                        await member.settle(batch)
    await wide.close()
    assert seen == {message.payload for message in messages}


async def test_what_was_received_before_a_rebalance_cannot_turn_back_what_came_after(
    real_kafka: str, group: str
) -> None:
    topic = f"kafka-{uuid4().hex}"
    wide = KafkaBroker(KafkaConfig((real_kafka,), partitions=2))
    await wide.ensure_topics([topic])
    old = await wide.subscribe(group, [topic])
    assert isinstance(old, KafkaSubscription)
    async with publishing(wide, [outgoing(topic, f"key-{n}", b"") for n in range(40)]):
        in_hand = await take(old, 40, settle=False)
    # The second member gets one of the two partitions, finishes it and leaves, so that it comes back to the first.
    polling = asyncio.create_task(_receive_for_ever(old))
    new = await wide.subscribe(group, [topic])
    partition = (await take(new, 1))[0].partition
    end = sum(message.partition == partition for message in in_hand)
    await new.close()
    place = TopicPartition(topic, partition)
    async with asyncio.timeout(30):
        while old._consumer is None or place not in old._consumer.assignment():
            await asyncio.sleep(0.05)
    await old.settle([message for message in in_hand if message.partition == partition][:1])
    committed = await old._consumer.committed(place)
    polling.cancel()
    await wide.close()
    assert committed == end


async def _receive_for_ever(subscription: KafkaSubscription) -> None:
    while True:
        await subscription.receive()


async def test_a_consumer_that_silently_stopped_fetching_is_replaced(
    broker: KafkaBroker, topic: str, group: str
) -> None:
    subscription = await broker.subscribe(group, [topic])
    async with publishing(broker, [outgoing(topic, "k", b"1")]):
        await take(subscription, 1)
    assert isinstance(subscription, KafkaSubscription)
    assert subscription._consumer is not None
    fetcher = subscription._consumer._fetcher
    for task in (fetcher._fetch_task, *fetcher._pending_tasks):
        task.cancel()
    async with publishing(broker, [outgoing(topic, "k", b"2")]):
        (received,) = await take(subscription, 1)
    assert received.payload == b"2"


async def test_an_idle_consumer_is_left_alone(broker: KafkaBroker, topic: str, group: str) -> None:
    subscription = await broker.subscribe(group, [topic])
    assert isinstance(subscription, KafkaSubscription)
    async with publishing(broker, [outgoing(topic, "k", b"1")]):
        await take(subscription, 1)
    consumer = subscription._consumer
    with pytest.raises(TimeoutError):
        # Several checks long, and a cancellation in the midst of one.
        async with asyncio.timeout(3.5):
            await subscription.receive()
    assert subscription._consumer is consumer


async def test_headers_of_strangers_arrive_whole_and_the_last_of_a_name_counts(
    kafka_bootstrap: str, broker: KafkaBroker, topic: str, group: str
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    strange = [("fine", b"1"), ("large", bytes(40_000)), ("bad\nname", b""), ("x" * 200, b""), ("fine", b"2")]
    strange += [(f"n{n}", b"") for n in range(100)]
    await producer.send_and_wait(topic, b"", headers=strange)
    await producer.stop()
    (received,) = await take(await broker.subscribe(group, [topic]), 1)
    assert received.headers == dict(strange)
    assert received.headers["fine"] == b"2"


async def test_an_open_kafka_broker_is_not_in_this_process(broker: KafkaBroker) -> None:
    assert (broker.name, broker.in_process) == ("kafka", False)


async def test_a_topic_that_cannot_be_is_a_configuration_error(broker: KafkaBroker) -> None:
    with pytest.raises(ConfigurationError, match="no topic name"):
        await broker.ensure_topics(["a b"])


async def test_more_replicas_than_brokers_is_said_in_words(real_kafka: str) -> None:
    with pytest.raises(UnavailableError, match="CQRS_TOPIC_REPLICATION"):
        await KafkaBroker(KafkaConfig((real_kafka,), replication=3)).ensure_topics([f"kafka-{uuid4().hex}"])


async def test_topics_are_left_alone_where_the_settings_say_so(real_kafka: str) -> None:
    topic = f"kafka-{uuid4().hex}"
    await KafkaBroker(KafkaConfig((real_kafka,), create_topics=False)).ensure_topics([topic])
    admin = AIOKafkaAdminClient(bootstrap_servers=real_kafka)
    await admin.start()
    assert topic not in await admin.list_topics()
    await admin.close()
