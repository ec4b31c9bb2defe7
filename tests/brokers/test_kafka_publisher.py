"""Only a prefix of a key is sent, whatever a producer answers. The producer here answers what the test says."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import pytest
from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from cqrs_fastapi.brokers.broker import Delivery, Outcome
from cqrs_fastapi.brokers.kafka import publisher as module
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import no_silent_cancellation
from cqrs_fastapi.brokers.kafka.publisher import KafkaPublisher
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.testing.contracts.broker import deliveries, outgoing

pytestmark = pytest.mark.anyio

ACKNOWLEDGED, HELD, REFUSED = Delivery.ACKNOWLEDGED, Delivery.HELD, Delivery.REFUSED


class Cluster:
    """A topic `t` of a few partitions. `judge` sees the payloads of a batch and returns the error it meets, if any."""

    def __init__(self, partitions: int, judge: Callable[[list[bytes]], Exception | None] = lambda _: None) -> None:
        self.partitions = partitions
        self.judge = judge
        self.log: defaultdict[int, list[bytes]] = defaultdict(list)
        self.batches = 0
        self.producers = 0
        self.killed = 0
        self.away = False
        self.silent = False
        self.led: set[int] = set(range(partitions))
        self.says = True

    def leaders(self, producer: Producer, topic: str) -> set[int]:
        return self.led

    async def is_unknown(self, producer: Producer, topic: str, seconds: float) -> bool:
        return self.says

    async def start(self, config: KafkaConfig) -> Producer:
        if self.away:
            raise UnavailableError("nobody is there")
        self.producers += 1
        return Producer(self, config)

    async def kill(self, producer: Producer) -> None:
        self.killed += 1


class Producer:
    def __init__(self, cluster: Cluster, config: KafkaConfig) -> None:
        self.cluster = cluster
        self.config = config

    async def partitions_for(self, topic: str) -> set[int]:
        if topic == "forbidden":
            raise errors.TopicAuthorizationFailedError(topic)
        if topic == "unknown":
            raise errors.UnknownTopicOrPartitionError
        return set(range(self.cluster.partitions))

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.config.max_message_bytes // 2, 0)

    async def flush(self) -> None:
        return None

    async def send_batch(self, builder: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[None]:
        assert builder.closed()
        payloads = [record.value for record in DefaultRecordBatch(bytes(builder._build()))]
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cluster.batches += 1
        error = self.cluster.judge(payloads)
        if self.cluster.silent:
            return answer
        if error is not None:
            answer.set_exception(error)
        else:
            self.cluster.log[partition] += payloads
            answer.set_result(None)
        return answer


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cluster], KafkaPublisher]:
    def make(cluster: Cluster) -> KafkaPublisher:
        monkeypatch.setattr(module, "start_producer", cluster.start)
        monkeypatch.setattr(module, "kill_producer", cluster.kill)
        monkeypatch.setattr(module, "led_partitions", cluster.leaders)
        monkeypatch.setattr(module, "is_unknown", cluster.is_unknown)
        return KafkaPublisher(KafkaConfig(("nowhere:1",), max_message_bytes=4000, ack_timeout_ms=50))

    return make


Make = Callable[[Cluster], KafkaPublisher]


def refuse(payload: bytes) -> Callable[[list[bytes]], Exception | None]:
    return lambda batch: errors.MessageSizeTooLargeError() if payload in batch else None


async def test_five_hundred_messages_go_as_one_batch_per_partition(publish: Make) -> None:
    cluster = Cluster(3)
    publisher = publish(cluster)
    outcomes = await publisher.publish([outgoing("t", f"key-{n % 50}", b"") for n in range(60)])
    assert set(deliveries(outcomes)) == {ACKNOWLEDGED}
    assert cluster.batches == 3


async def test_a_refusal_in_mid_key_is_found_in_its_batch_and_only_its_followers_are_held(publish: Make) -> None:
    cluster = Cluster(1, refuse(b"bad"))
    publisher = publish(cluster)
    messages = [
        outgoing("t", "a", b"a1"),
        outgoing("t", "b", b"b1"),
        outgoing("t", "a", b"bad"),
        outgoing("t", "a", b"a3"),
        outgoing("t", "b", b"b2"),
    ]
    outcomes = await publisher.publish(messages)
    assert deliveries(outcomes) == [ACKNOWLEDGED, ACKNOWLEDGED, REFUSED, HELD, ACKNOWLEDGED]
    assert cluster.log[0] == [b"a1", b"b1", b"b2"]


async def test_a_message_that_is_too_large_is_never_handed_over_and_neither_are_its_followers(publish: Make) -> None:
    cluster = Cluster(1)
    publisher = publish(cluster)
    messages = [outgoing("t", "a", b"1"), outgoing("t", "a", bytes(5000)), outgoing("t", "a", b"3")]
    outcomes = await publisher.publish(messages)
    assert deliveries(outcomes) == [ACKNOWLEDGED, REFUSED, HELD]
    assert cluster.log[0] == [b"1"]


async def test_a_refusal_behind_a_held_message_waits_for_its_turn(publish: Make) -> None:
    publisher = publish(Cluster(1, lambda _: errors.NotEnoughReplicasError()))
    outcomes = await publisher.publish([outgoing("t", "a", b"1"), outgoing("t", "a", bytes(5000))])
    assert deliveries(outcomes) == [HELD, HELD]


async def test_after_a_transient_failure_nothing_more_goes_to_its_partition(publish: Make) -> None:
    failed = iter([errors.RequestTimedOutError()])
    cluster = Cluster(1, lambda _: next(failed, None))
    publisher = publish(cluster)
    # Three batches' worth for one partition, with and without a key.
    messages = [outgoing("t", key, bytes(1500)) for key in ("a", "b", None)]
    assert deliveries(await publisher.publish(messages)) == [HELD, HELD, HELD]
    assert cluster.log[0] == []


async def test_another_partition_passes_a_failing_one(publish: Make) -> None:
    cluster = Cluster(2, lambda batch: errors.LeaderNotAvailableError() if b"0" in batch else None)
    publisher = publish(cluster)
    outcomes = await publisher.publish([outgoing("t", f"key-{n}", str(n).encode()) for n in range(20)])
    assert {ACKNOWLEDGED, HELD} == set(deliveries(outcomes))


@pytest.mark.parametrize(
    "error",
    [
        errors.NotEnoughReplicasError,
        errors.LeaderNotAvailableError,
        errors.RequestTimedOutError,
        errors.KafkaConnectionError,
        errors.UnknownTopicOrPartitionError,
        errors.OutOfOrderSequenceNumber,
        errors.ProducerFenced,
        errors.ProducerClosed,
        errors.UnknownError,
    ],
)
async def test_what_may_pass_is_held_and_the_producer_is_replaced(publish: Make, error: type[Exception]) -> None:
    failures = iter([error()])
    cluster = Cluster(1, lambda _: next(failures, None))
    publisher = publish(cluster)
    assert deliveries(await publisher.publish([outgoing("t", "k", b"1")])) == [HELD]
    assert deliveries(await publisher.publish([outgoing("t", "k", b"1")])) == [ACKNOWLEDGED]
    assert (cluster.producers, cluster.killed) == (2, 1)


@pytest.mark.parametrize(
    "error",
    [
        errors.MessageSizeTooLargeError,
        errors.InvalidTopicError,
        errors.TopicAuthorizationFailedError,
        errors.ClusterAuthorizationFailedError,
        errors.UnsupportedVersionError,
    ],
)
async def test_what_never_passes_is_refused_with_its_reason(publish: Make, error: type[Exception]) -> None:
    publisher = publish(Cluster(1, lambda _: error()))
    (outcome,) = await publisher.publish([outgoing("t", "k", b"1")])
    assert outcome == Outcome(REFUSED, str(error()))


async def test_a_forbidden_topic_refuses_the_first_of_each_key_and_holds_the_others(publish: Make) -> None:
    publisher = publish(Cluster(1))
    messages = [outgoing("forbidden", key, b"") for key in ("a", "b", "a")] + [outgoing("t", "a", b"")]
    assert deliveries(await publisher.publish(messages)) == [REFUSED, REFUSED, HELD, ACKNOWLEDGED]


async def test_an_unknown_topic_is_told_and_other_topics_pass(publish: Make) -> None:
    publisher = publish(Cluster(1))
    messages = [outgoing("unknown", "a", b""), outgoing("unknown", "a", b""), outgoing("t", "a", b"")]
    assert deliveries(await publisher.publish(messages)) == [Delivery.UNKNOWN_TOPIC, HELD, ACKNOWLEDGED]


async def test_a_topic_that_nobody_says_anything_of_is_held_and_not_taken_for_unknown(publish: Make) -> None:
    cluster = Cluster(1)
    cluster.says = False
    publisher = publish(cluster)
    assert deliveries(await publisher.publish([outgoing("unknown", "a", b"")])) == [HELD]


async def test_a_partition_without_a_leader_holds_its_keys_at_once_and_the_others_pass(publish: Make) -> None:
    cluster = Cluster(2)
    cluster.led = {0}
    publisher = publish(cluster)
    keyed = [outgoing("t", f"key-{n}", str(n).encode()) for n in range(20)]
    outcomes = await publisher.publish([*keyed, *(outgoing("t", None, b"none") for _ in range(20))])
    assert set(deliveries(outcomes[:20])) == {ACKNOWLEDGED, HELD}
    assert set(deliveries(outcomes[20:])) == {ACKNOWLEDGED}
    assert cluster.killed == 0
    cluster.led = {0, 1}
    assert set(deliveries(await publisher.publish(keyed))) == {ACKNOWLEDGED}


async def test_messages_without_a_key_follow_nobody(publish: Make) -> None:
    publisher = publish(Cluster(1, refuse(b"bad")))
    outcomes = await publisher.publish([outgoing("t", None, payload) for payload in (b"1", b"bad", b"3")])
    assert deliveries(outcomes) == [ACKNOWLEDGED, REFUSED, ACKNOWLEDGED]


async def test_the_empty_key_is_a_key(publish: Make) -> None:
    publisher = publish(Cluster(1, refuse(b"bad")))
    outcomes = await publisher.publish([outgoing("t", key, value) for key, value in [("", b"bad"), ("", b"2")]])
    assert deliveries(outcomes) == [REFUSED, HELD]


async def test_a_producer_without_an_acknowledgement_is_replaced(publish: Make) -> None:
    cluster = Cluster(1)
    cluster.silent = True
    publisher = publish(cluster)
    (outcome,) = await publisher.publish([outgoing("t", "k", b"1")])
    assert outcome == Outcome(HELD, "Kafka did not acknowledge within 50 ms")
    cluster.silent = False
    assert deliveries(await publisher.publish([outgoing("t", "k", b"1")])) == [ACKNOWLEDGED]
    assert cluster.killed == 1


async def test_what_was_acknowledged_counts_though_the_broker_goes_away_in_mid_call(publish: Make) -> None:
    cluster = Cluster(2)

    def judge(batch: list[bytes]) -> Exception | None:
        cluster.away = True
        return errors.KafkaConnectionError() if b"0" in batch else None

    cluster.judge = judge
    publisher = publish(cluster)
    outcomes = await publisher.publish([outgoing("t", f"key-{n}", str(n).encode()) for n in range(20)])
    assert {ACKNOWLEDGED, HELD} == set(deliveries(outcomes))
    with pytest.raises(UnavailableError):
        await publisher.publish([outgoing("t", "k", b"")])


async def test_a_closed_publisher_says_so(publish: Make) -> None:
    publisher = publish(Cluster(1))
    await publisher.close()
    with pytest.raises(UnavailableError, match="closed"):
        await publisher.publish([outgoing("t", "k", b"")])


async def test_a_delivery_that_the_client_gave_up_is_held_and_nobody_looks_cancelled() -> None:
    with pytest.raises(errors.KafkaError, match="gave up"), no_silent_cancellation():
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future


async def test_a_cancellation_of_the_caller_stays_one() -> None:
    async def waiting() -> None:
        with no_silent_cancellation():
            await asyncio.sleep(60)

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
