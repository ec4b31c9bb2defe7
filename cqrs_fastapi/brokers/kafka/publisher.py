"""Publishing to Kafka by one idempotent producer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.brokers.kafka.client import is_unknown, kill_producer, led_partitions, start_producer
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import describe, no_silent_cancellation, outcome_of
from cqrs_fastapi.brokers.kafka.lanes import Lanes, Shipment
from cqrs_fastapi.errors import UnavailableError

_METADATA_SECONDS = 2.0

logger = logging.getLogger(__name__)


class KafkaPublisher:
    """Sends one batch per partition and waits for it before the next: what is not acknowledged overtakes nothing.

    aiokafka alone does not promise that. It gives a failed batch's sequence numbers away, and a broker that knows
    nothing of the producer yet accepts the following batch all the same. So after a failure nothing more goes to that
    partition, and the producer, whose sequence numbers no longer fit, is replaced. Order is kept per topic and key.
    A message whose fate is unknown is HELD: sent again, it may be there twice.

    Calls are served one after the other. A cancelled call may still send what it had handed over.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._producer: AIOKafkaProducer | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        """As the port says. UnavailableError means that nothing of this call was sent."""
        lanes = Lanes(messages, self._config.max_message_bytes)
        if not lanes.unrouted:
            return lanes.outcomes()
        async with self._turn:
            producer = await self._ready()
            await self._route(producer, lanes)
            return lanes.outcomes(await self._send(producer, lanes))

    async def close(self) -> None:
        """Send what was handed over; what Kafka does not take within the acknowledgement's time limit is given up."""
        async with self._turn:
            self._closed = True
            producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            async with asyncio.timeout(self._config.ack_timeout_ms / 1000):
                await producer.flush()
        except TimeoutError:
            logger.warning("Kafka did not acknowledge what was sent last; it is given up")
        await kill_producer(producer)

    async def _ready(self) -> AIOKafkaProducer:
        if self._closed:
            raise UnavailableError("this Kafka publisher is closed; ask the broker for another one")
        if self._producer is None:
            self._producer = await start_producer(self._config)
        return self._producer

    async def _route(self, producer: AIOKafkaProducer, lanes: Lanes) -> None:
        """Find the partitions of all topics at once: one that does not exist costs two seconds, not two each."""

        async def route(topic: str) -> None:
            try:
                async with asyncio.timeout(_METADATA_SECONDS):
                    partitions = await _partitions(producer, topic)
            except (TimeoutError, UnknownTopicOrPartitionError):
                if await is_unknown(producer, topic, _METADATA_SECONDS):
                    lanes.fail_topic(topic, Outcome(Delivery.UNKNOWN_TOPIC, f"Kafka knows no topic {topic!r}"))
                else:
                    lanes.fail_topic(topic, Outcome(Delivery.HELD, f"Kafka does not say where topic {topic!r} is"))
            except KafkaError as error:
                lanes.fail_topic(topic, outcome_of(error))
            else:
                lanes.route(topic, partitions, led_partitions(producer, topic))

        await asyncio.gather(*(route(topic) for topic in list(lanes.unrouted)))

    async def _send(self, producer: AIOKafkaProducer, lanes: Lanes) -> str:
        """Round by round, one batch per partition; returns why the rest was not sent, if there is a rest."""
        while shipments := lanes.next_shipments(producer):
            errors = await self._ship(producer, shipments)
            for shipment, error in zip(shipments, errors, strict=True):
                if error is None:
                    lanes.arrived(shipment)
                else:
                    lanes.failed(shipment, error)
            broken = [error for error in errors if error is not None]
            if broken:
                await self._replace(producer, broken[0])
                try:
                    producer = await self._ready()
                except UnavailableError as error:
                    return str(error)
        return ""

    async def _ship(self, producer: AIOKafkaProducer, shipments: Sequence[Shipment]) -> list[BaseException | None]:
        """The error of each shipment, or None. One that has no answer in time has a TimeoutError."""
        tasks = [asyncio.create_task(_deliver(producer, shipment)) for shipment in shipments]
        try:
            await asyncio.wait(tasks, timeout=self._config.ack_timeout_ms / 1000)
            return [task.result() if task.done() else self._silence() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

    def _silence(self) -> TimeoutError:
        return TimeoutError(f"Kafka did not acknowledge within {self._config.ack_timeout_ms} ms")

    async def _replace(self, producer: AIOKafkaProducer, error: BaseException) -> None:
        logger.warning("the Kafka producer is replaced after: %s", describe(error))
        self._producer = None
        await kill_producer(producer)


async def _partitions(producer: AIOKafkaProducer, topic: str) -> set[int]:
    with no_silent_cancellation():
        partitions: set[int] = await producer.partitions_for(topic)
        return partitions


async def _deliver(producer: AIOKafkaProducer, shipment: Shipment) -> BaseException | None:
    place = shipment.lane.place
    try:
        with no_silent_cancellation():
            await (await producer.send_batch(shipment.builder, place.topic, partition=place.partition))
    except KafkaError as error:
        # The annotation is for the checker, which knows nothing of aiokafka's classes.
        failure: BaseException = error
        return failure
    return None
