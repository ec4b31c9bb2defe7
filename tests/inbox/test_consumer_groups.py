"""Consumers of one group on a real Kafka: what is in hand when a partition goes to another member."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import IncomingMessage, Place
from cqrs_fastapi.brokers.kafka.broker import KafkaBroker
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.inbox.consumer import Consumer, Prefetch
from cqrs_fastapi.inbox.receiver import Piece
from cqrs_fastapi.inbox.track import Bounds
from cqrs_fastapi.testing.contracts.broker import outgoing

pytestmark = pytest.mark.anyio


@dataclass
class Field:
    """What several members have begun and ended, in one list."""

    log: list[tuple[str, str, str, int]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: float = 0.0

    def ended(self) -> list[str]:
        return [what for _, word, what, _ in self.log if word == "ended"]


@dataclass(eq=False)
class Work:
    message: IncomingMessage
    field: Field
    member: str
    consumer: str = "one"
    may_share: bool = False

    async def settle(self, stop: asyncio.Event) -> bool:
        what, place = self.message.payload.decode(), self.message.partition
        self.field.log.append((self.member, "begun", what, place))
        await self.field.gate.wait()
        await asyncio.sleep(self.field.seconds)
        self.field.log.append((self.member, "ended", what, place))
        return True


@dataclass
class Receiver:
    field: Field
    member: str

    async def open(self, messages: Sequence[IncomingMessage]) -> Sequence[Sequence[Piece]]:
        return [[Work(message, self.field, self.member)] for message in messages]

    async def settle_together(self, pieces: Sequence[Piece], stop: asyncio.Event) -> Collection[Piece]:
        return ()

    async def give_up(self, place: Place, *, is_finished: bool) -> None:
        pass


@dataclass
class Group:
    bootstrap: str
    topic: str
    field: Field
    drain: int = 10_000
    name: str = field(default_factory=lambda: f"group-{uuid4().hex}")
    running: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = field(default_factory=dict)

    async def join(self, member: str) -> None:
        broker = KafkaBroker(KafkaConfig((self.bootstrap,), session_timeout_ms=6000, drain_timeout_ms=self.drain))
        receivers = {self.topic: Receiver(self.field, member)}
        consumer = Consumer(broker, receivers, self.name, Bounds(4, 10), Prefetch(500, 1 << 20))
        stop = asyncio.Event()
        self.running[member] = (stop, asyncio.ensure_future(consumer.run(stop)))

    async def leave(self, member: str) -> None:
        stop, task = self.running.pop(member)
        stop.set()
        await task

    async def committed(self, partition: int) -> int | None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, group_id=self.name, enable_auto_commit=False)
        await consumer.start()
        try:
            offset: int | None = await consumer.committed(TopicPartition(self.topic, partition))
            return offset
        finally:
            await consumer.stop()


@pytest.fixture
async def group(real_kafka: str) -> AsyncIterator[Group]:
    topic = f"groups-{uuid4().hex}"
    await KafkaBroker(KafkaConfig((real_kafka,), partitions=2)).ensure_topics([topic])
    group = Group(real_kafka, topic, Field())
    yield group
    group.field.gate.set()
    for member in list(group.running):
        await group.leave(member)


async def put(group: Group, count: int, keys: int) -> None:
    broker = KafkaBroker(KafkaConfig((group.bootstrap,)))
    publisher = await broker.publisher()
    await publisher.publish([outgoing(group.topic, f"key-{n % keys}", str(n).encode()) for n in range(count)])
    await broker.close()


async def until(condition, seconds: float = 40) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_partition_changes_hands_when_what_was_begun_in_it_has_ended_and_nothing_is_repeated(
    group: Group,
) -> None:
    group.field.seconds = 0.12
    await put(group, 400, keys=40)
    group.field.gate.set()
    await group.join("first")
    await until(lambda: len(group.field.ended()) > 20)
    await group.join("second")
    await until(lambda: len(set(group.field.ended())) == 400)
    assert len(group.field.ended()) == 400
    assert {member for member, _, _, _ in group.field.log} == {"first", "second"}
    for key in range(40):
        mine = [int(what) for what in group.field.ended() if int(what) % 40 == key]
        assert mine == sorted(mine)


async def test_nothing_of_a_partition_is_begun_elsewhere_while_it_is_being_worked_on(group: Group) -> None:
    await put(group, 40, keys=20)
    await group.join("first")
    await until(lambda: len(group.field.log) >= 8)
    begun = {what for _, _, what, _ in group.field.log}
    await group.join("second")
    await asyncio.sleep(5)
    assert {member for member, _, _, _ in group.field.log} == {"first"}
    group.field.gate.set()
    await until(lambda: len(set(group.field.ended())) == 40)
    assert len(group.field.ended()) == 40
    assert {member for member, word, what, _ in group.field.log if what in begun} == {"first"}


async def test_work_that_does_not_end_in_time_is_not_committed_and_comes_again(group: Group) -> None:
    group.drain = 500
    await put(group, 10, keys=10)
    await group.join("first")
    await until(lambda: len(group.field.log) >= 8)
    await group.join("second")
    await until(lambda: "second" in {member for member, _, _, _ in group.field.log})
    assert await group.committed(0) is None
    assert await group.committed(1) is None
    group.field.gate.set()
    await until(lambda: len(set(group.field.ended())) == 10)


async def test_a_member_that_stops_commits_what_has_ended_and_nothing_behind_it(group: Group) -> None:
    await put(group, 30, keys=30)
    await group.join("first")
    await until(lambda: len(group.field.log) >= 8)
    leaving = asyncio.ensure_future(group.leave("first"))
    await asyncio.sleep(0.3)
    group.field.gate.set()
    await leaving
    ended = group.field.ended()
    assert len(ended) == 8
    assert sum([await group.committed(0) or 0, await group.committed(1) or 0]) <= 8
    await group.join("second")
    await until(lambda: len(set(group.field.ended())) == 30)
    per_key = [what for what in group.field.ended() if group.field.ended().count(what) > 1]
    assert len(per_key) <= 16


async def test_what_is_in_hand_is_bounded_while_much_more_waits(group: Group) -> None:
    await put(group, 3000, keys=100)
    broker = KafkaBroker(KafkaConfig((group.bootstrap,), batch=100))
    receiver = Receiver(group.field, "only")
    consumer = Consumer(broker, {group.topic: receiver}, group.name, Bounds(4, 10), Prefetch(200, 1 << 20))
    stop = asyncio.Event()
    running = asyncio.ensure_future(consumer.run(stop))
    await until(lambda: len(group.field.log) >= 8)
    most = 0
    for _ in range(60):
        most = max(most, sum(len(lane.watermark) for lane in consumer._lanes.values()))
        await asyncio.sleep(0.05)
    assert 100 <= most <= 200 + 2 * 100
    group.field.gate.set()
    await until(lambda: len(set(group.field.ended())) == 3000)
    stop.set()
    await running
    assert len(group.field.ended()) == 3000
