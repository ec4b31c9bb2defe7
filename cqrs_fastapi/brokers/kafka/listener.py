"""Listening to Kafka without a group: every partition, from where it ended when the listening began."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import IncomingMessage, Place
from cqrs_fastapi.brokers.kafka.client import away, connection
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.consumer import incoming, stop_consumer
from cqrs_fastapi.brokers.kafka.faults import no_silent_cancellation
from cqrs_fastapi.errors import UnavailableError

_POLL_MS = 1000
_LOOKS, _PAUSE = 20, 0.1
"""How often a missing topic is looked for, and seconds between."""

logger = logging.getLogger(__name__)


class KafkaListener:
    """Remembers where it is in each partition, so that a connection made anew goes on where the last one ended.

    A partition that was added since, or whose place Kafka no longer has, is read from its beginning: whoever listens
    knows by themselves what concerns them, and a message that comes twice or late does less harm than one that is lost.
    """

    def __init__(self, config: KafkaConfig, topics: Sequence[str]) -> None:
        self._config = config
        self._topics = tuple(topics)
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[TopicPartition, int] | None = None
        self._paused: set[TopicPartition] = set()
        self._closed = False

    async def start(self) -> None:
        """Returns when what is published from now on will be received."""
        await self._connected()

    async def receive(self) -> Sequence[IncomingMessage]:
        """As the port says. After UnavailableError call it again: it connects anew if need be."""
        clock = asyncio.get_running_loop().time
        quiet_since = clock()
        while True:
            consumer = await self._connected()
            if messages := await self._poll(consumer):
                return messages
            if clock() - quiet_since >= self._config.stall_timeout_ms / 1000:
                await self._check(consumer)
                quiet_since = clock()

    def pause(self, place: Place) -> None:
        self._paused.add(TopicPartition(*place))

    def resume(self, place: Place) -> None:
        self._paused.discard(TopicPartition(*place))

    def stranded(self) -> Mapping[Place, str]:
        """None ever: what is gone was never heard."""
        return {}

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        self._closed = True
        await self._drop()

    async def _connected(self) -> AIOKafkaConsumer:
        if self._closed:
            raise UnavailableError("this Kafka listener is closed; listen again")
        if self._consumer is None:
            self._consumer = await self._connect()
        return self._consumer

    async def _connect(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **connection(self._config, AIOKafkaConsumer),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
        )
        try:
            async with asyncio.timeout(self._config.request_timeout_ms / 1000):
                with no_silent_cancellation():
                    await consumer.start()
                    await self._take_place(consumer)
        except (KafkaError, OSError, TimeoutError) as error:
            await stop_consumer(consumer)
            raise away(self._config, error) from error
        except BaseException:
            await stop_consumer(consumer)
            raise
        return consumer

    async def _take_place(self, consumer: AIOKafkaConsumer) -> None:
        places = await _partitions(consumer, self._topics)
        consumer.assign(places)
        if self._positions is None:
            self._positions = dict(await consumer.end_offsets(places))
        unknown = [place for place in places if place not in self._positions]
        if unknown:
            self._positions |= await consumer.beginning_offsets(unknown)
        for place in places:
            consumer.seek(place, self._positions[place])

    async def _poll(self, consumer: AIOKafkaConsumer) -> list[IncomingMessage]:
        """Nothing may be awaited between `getmany` and the return, or a cancellation there would lose messages."""
        try:
            with no_silent_cancellation():
                records = await self._records(consumer)
        except OffsetOutOfRangeError as error:
            logger.warning("messages were gone before they were heard: %s", error.args[0])
            for place in error.args[0]:
                self._place(place, None)
            await self._drop()
            return []
        except (KafkaError, UnicodeDecodeError) as error:
            await self._drop()
            raise away(self._config, error) from error
        for place, part in records.items():
            self._place(place, part[-1].offset + 1)
        return [incoming(record) for part in records.values() for record in part]

    async def _records(self, consumer: AIOKafkaConsumer) -> Any:
        if not self._paused:
            return await consumer.getmany(timeout_ms=_POLL_MS, max_records=self._config.batch)
        wanted = consumer.assignment() - self._paused
        if not wanted:
            await asyncio.sleep(_PAUSE)
            return {}
        # Soon over, so that a partition that is resumed meanwhile is asked as well.
        timeout = int(_PAUSE * 1000)
        return await consumer.getmany(*wanted, timeout_ms=timeout, max_records=self._config.batch)

    def _place(self, place: TopicPartition, position: int | None) -> None:
        positions = self._positions
        if positions is None:
            return
        if position is None:
            positions.pop(place, None)
        else:
            positions[place] = position

    async def _check(self, consumer: AIOKafkaConsumer) -> None:
        """After a quiet time: a consumer that is behind, or does not know of a partition, is made anew."""
        try:
            async with asyncio.timeout(self._config.request_timeout_ms / 1000):
                with no_silent_cancellation():
                    places = await _partitions(consumer, self._topics)
                    ends = await consumer.end_offsets(places)
        except (KafkaError, OSError, TimeoutError) as error:
            await self._drop()
            raise away(self._config, error) from error
        positions = self._positions or {}
        behind = [place for place in places if place not in self._paused and positions.get(place, -1) < ends[place]]
        if behind:
            logger.warning("the Kafka listener is behind and is replaced: %s", behind)
            await self._drop()

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)


async def _partitions(consumer: AIOKafkaConsumer, topics: Sequence[str]) -> list[TopicPartition]:
    """All partitions of the topics, asked for anew. UnavailableError if a topic does not exist.

    One that was just created may not be known to every broker yet, and is waited for.
    """
    client = consumer._client  # noqa: SLF001 -- aiokafka has no public way to ask before something is assigned
    client.set_topics(topics)
    found: dict[str, set[int]] = {}
    for _ in range(_LOOKS):
        await client.force_metadata_update()
        found = {topic: client.cluster.partitions_for_topic(topic) or set() for topic in topics}
        if all(found.values()):
            return [TopicPartition(topic, number) for topic in topics for number in sorted(found[topic])]
        await asyncio.sleep(_PAUSE)
    unknown = next(topic for topic in topics if not found[topic])
    raise UnavailableError(f"the broker does not know a topic {unknown!r}")
