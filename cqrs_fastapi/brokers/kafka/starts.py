"""Where a group begins in a partition in which it has no offset."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import no_silent_cancellation


class Starts:
    """At the oldest message; or `at_end`, in the partitions that there are when the first of their topic is begun. One
    that comes later was empty then, so all its messages are new.
    """

    def __init__(self, config: KafkaConfig, *, at_end: bool) -> None:
        self._seconds = config.request_timeout_ms / 1000
        self._at_end = at_end
        self._found: dict[str, frozenset[int]] = {}

    async def begin(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> None:
        """Raises what aiokafka does, and TimeoutError."""
        async with asyncio.timeout(self._seconds):
            with no_silent_cancellation():
                if self._at_end and self._was_there(consumer, place):
                    await consumer.seek_to_end(place)
                    # At once, since the end will be elsewhere when this is asked the next time.
                    await consumer.commit({place: await consumer.position(place)})
                else:
                    await consumer.seek_to_beginning(place)

    def _was_there(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> bool:
        partitions = frozenset(consumer.partitions_for_topic(place.topic) or (place.partition,))
        return place.partition in self._found.setdefault(place.topic, partitions)
