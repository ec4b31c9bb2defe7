"""One call of `publish`, sorted by partition, so that one batch per partition can be sent and waited for at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.brokers.kafka import headers
from cqrs_fastapi.brokers.kafka.faults import is_topic, outcome_of

ACKNOWLEDGED = Outcome(Delivery.ACKNOWLEDGED)
LEADERLESS = Outcome(Delivery.HELD, "its partition has no leader now")
FOLLOWER = Outcome(Delivery.HELD, "an earlier message of its key was not acknowledged")

_partition = DefaultPartitioner()
_KEYS_KNOWN = 1 << 16


@lru_cache(maxsize=_KEYS_KNOWN)
def _number(key: bytes, count: int) -> int:
    """The partition of a key; kept, since aiokafka computes murmur2 in Python."""
    numbers = list(range(count))
    number: int = _partition(key, numbers, numbers)
    return number


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message in the form it is sent in."""

    index: int
    topic: str
    key: bytes | None
    payload: bytes
    headers: list[tuple[str, bytes | None]]


@dataclass(slots=True)
class Lane:
    """What is still to be sent to one partition."""

    place: TopicPartition
    parcels: deque[Parcel]
    one_by_one: bool = False
    """After a batch was refused, so that the message that caused it is found and the others pass."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """One batch on its way."""

    lane: Lane
    builder: BatchBuilder
    parcels: Sequence[Parcel]


class Lanes:
    """The outcomes of one call. The first message of a key without an acknowledgement blocks those after it."""

    def __init__(self, messages: Sequence[OutgoingMessage], max_bytes: int) -> None:
        self._messages = messages
        self._outcomes: list[Outcome | None] = [None] * len(messages)
        self._blocked: set[tuple[str, bytes]] = set()
        self._lanes: dict[TopicPartition, Lane] = {}
        self.unrouted: dict[str, list[Parcel]] = {}
        self._unpacked: set[tuple[str, str]] = set()
        for index, message in enumerate(messages):
            self._pack(index, message, max_bytes)

    def route(self, topic: str, partitions: Iterable[int], led: Collection[int]) -> None:
        """Choose partitions by the murmur2 hash of the key, as Java's and aiokafka's producers do.

        One without a leader, that is not among `led`, holds its keys; those without a key go elsewhere.
        """
        numbers, led_numbers = sorted(partitions), sorted(led)
        lanes = {number: self._lane(topic, number) for number in led_numbers}
        for parcel in self.unrouted.pop(topic):
            key = parcel.key
            chosen = _partition(None, numbers, led_numbers or numbers) if key is None else _number(key, len(numbers))
            lane = lanes.get(chosen)
            if lane is None:
                self._fail(parcel, LEADERLESS)
            else:
                lane.parcels.append(parcel)

    def _lane(self, topic: str, partition: int) -> Lane:
        place = TopicPartition(topic, partition)
        return self._lanes.setdefault(place, Lane(place, deque()))

    def fail_topic(self, topic: str, outcome: Outcome) -> None:
        for parcel in self.unrouted.pop(topic):
            self._fail(parcel, outcome)

    def next_shipments(self, producer: AIOKafkaProducer) -> list[Shipment]:
        shipments = [self._load(lane, producer.create_batch()) for lane in self._lanes.values() if lane.parcels]
        return [shipment for shipment in shipments if shipment.parcels]

    def arrived(self, shipment: Shipment) -> None:
        for parcel in shipment.parcels:
            self._outcomes[parcel.index] = ACKNOWLEDGED

    def failed(self, shipment: Shipment, error: BaseException) -> None:
        """A batch that was refused is opened and sent one by one; any other failure holds the whole partition."""
        outcome = outcome_of(error)
        if outcome.delivery is Delivery.HELD:
            for parcel in (*shipment.parcels, *shipment.lane.parcels):
                self._fail(parcel, outcome)
            shipment.lane.parcels.clear()
        elif len(shipment.parcels) == 1:
            self._fail(shipment.parcels[0], outcome)
        else:
            shipment.lane.parcels.extendleft(reversed(shipment.parcels))
            shipment.lane.one_by_one = True

    def outcomes(self, otherwise: str = "") -> list[Outcome]:
        """One for each message; a refusal behind a message that is held is held as well, for its turn has not come."""
        complete: list[Outcome] = []
        blocked: set[tuple[str, str]] = set()
        for message, known in zip(self._messages, self._outcomes, strict=True):
            outcome = known or Outcome(Delivery.HELD, otherwise)
            key = None if message.key is None else (message.topic, message.key)
            if key in blocked and outcome.delivery is Delivery.REFUSED:
                outcome = FOLLOWER
            if key is not None and outcome.delivery is not Delivery.ACKNOWLEDGED:
                blocked.add(key)
            complete.append(outcome)
        return complete

    def _pack(self, index: int, message: OutgoingMessage, max_bytes: int) -> None:
        key = None if message.key is None else (message.topic, message.key)
        if key in self._unpacked:
            self._outcomes[index] = FOLLOWER
            return
        packed = _packed(index, message, max_bytes)
        if isinstance(packed, Parcel):
            self.unrouted.setdefault(message.topic, []).append(packed)
            return
        self._outcomes[index] = Outcome(Delivery.REFUSED, packed)
        if key is not None:
            self._unpacked.add(key)

    def _load(self, lane: Lane, builder: BatchBuilder) -> Shipment:
        loaded: list[Parcel] = []
        while lane.parcels and not (lane.one_by_one and loaded):
            parcel = lane.parcels[0]
            if (lane.place.topic, parcel.key) in self._blocked:
                self._outcomes[parcel.index] = FOLLOWER
            elif builder.append(timestamp=None, key=parcel.key, value=parcel.payload, headers=parcel.headers) is None:
                break
            else:
                loaded.append(parcel)
            lane.parcels.popleft()
        builder.close()
        return Shipment(lane, builder, loaded)

    def _fail(self, parcel: Parcel, outcome: Outcome) -> None:
        blocks = parcel.key is not None
        place = (parcel.topic, parcel.key or b"")
        self._outcomes[parcel.index] = FOLLOWER if blocks and place in self._blocked else outcome
        if blocks:
            self._blocked.add(place)


def _packed(index: int, message: OutgoingMessage, max_bytes: int) -> Parcel | str:
    """The message ready to be sent, or why it never will be."""
    if not is_topic(message.topic):
        return f"{message.topic!r} is no topic name; use 1-249 letters, digits, '.', '_' or '-'"
    try:
        key, pairs = None if message.key is None else message.key.encode(), headers.to_wire(message)
    except UnicodeEncodeError as error:
        return f"its key or a header is not valid text: {error}"
    size = DefaultRecordBatchBuilder.estimate_size_in_bytes(key, message.payload, pairs)
    if size > max_bytes:
        return f"the message has {size} bytes, the limit is {max_bytes}"
    return Parcel(index, message.topic, key, message.payload, pairs)
