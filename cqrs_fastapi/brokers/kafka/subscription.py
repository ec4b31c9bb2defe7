"""Consuming from Kafka as one member of a group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.brokers.kafka.client import away
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.consumer import incoming, start_consumer, stop_consumer
from cqrs_fastapi.brokers.kafka.faults import describe, no_silent_cancellation
from cqrs_fastapi.brokers.kafka.windows import Windows
from cqrs_fastapi.errors import UnavailableError

_POLL_MS = 1000
_JOIN_CHECKS = 6

logger = logging.getLogger(__name__)


class KafkaSubscription:
    """Joins its group at the first `receive` and again after Kafka was away, so that subscribing never fails.

    A rebalance takes partitions away at once: what was received and not settled then comes again, to this member or
    another. A group without an offset starts at the oldest message. An offset that the topic no longer has is an
    error and never a jump, since messages were lost.
    """

    def __init__(self, config: KafkaConfig, group: str, topics: Sequence[str]) -> None:
        self._config = config
        self._group = group
        self._topics = tuple(topics)
        self._consumer: AIOKafkaConsumer | None = None
        self._windows = Windows()
        self._behind: dict[TopicPartition, int] = {}
        self._joining = 0
        self._closed = False

    async def receive(self) -> Sequence[IncomingMessage]:
        """As the port says. After UnavailableError call it again: it connects anew if need be."""
        clock = asyncio.get_running_loop().time
        quiet_since = clock()
        while True:
            consumer = await self._connected()
            if messages := await self._poll(consumer):
                self._behind.clear()
                return messages
            if clock() - quiet_since >= self._config.stall_timeout_ms / 1000:
                await self._check(consumer)
                quiet_since = clock()

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        """As the port says. UnavailableError means that they may be received again."""
        consumer = self._consumer
        if consumer is None:
            return
        owned = consumer.assignment()
        offsets = {place: after for place, after in self._windows.committable(messages).items() if place in owned}
        if not offsets:
            return
        try:
            async with asyncio.timeout(self._config.request_timeout_ms / 1000):
                with no_silent_cancellation():
                    await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            # By design: the group has rebalanced, and the next owner of the partition receives them again.
            logger.info("group %s has rebalanced and receives some messages again: %s", self._group, describe(error))
        except (KafkaError, TimeoutError) as error:
            raise away(self._config, error) from error
        else:
            self._windows.committed(offsets)

    async def close(self) -> None:
        self._closed = True
        await self._drop()

    async def _connected(self) -> AIOKafkaConsumer:
        if self._closed:
            raise UnavailableError("this Kafka subscription is closed; subscribe again")
        if self._consumer is None:
            self._consumer = await start_consumer(self._config, self._group, self._topics, self._windows.clear)
        return self._consumer

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._windows.clear()
        self._behind.clear()
        self._joining = 0
        if consumer is not None:
            await stop_consumer(consumer)

    async def _poll(self, consumer: AIOKafkaConsumer) -> list[IncomingMessage]:
        """Nothing may be awaited between `getmany` and the return, or a cancellation there would lose messages."""
        try:
            # getmany has no limit while the group is joining. The block ends in the same step as the messages are out.
            # It is longer than an ordinary poll, which therefore never counts as joining.
            async with asyncio.timeout((self._config.stall_timeout_ms + _POLL_MS) / 1000):
                with no_silent_cancellation():
                    records = await consumer.getmany(timeout_ms=_POLL_MS, max_records=self._config.batch)
        except TimeoutError:
            self._joining += 1
            return []
        except NoOffsetForPartitionError as error:
            await self._begin(consumer, error.args[0])
            return []
        except OffsetOutOfRangeError as error:
            raise self._lost(error.args[0]) from error
        except (KafkaError, UnicodeDecodeError) as error:
            await self._drop()
            raise away(self._config, error) from error
        self._joining = 0
        messages = [incoming(record) for part in records.values() for record in part]
        self._windows.received(messages)
        return messages

    async def _begin(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> None:
        """The group has no offset in this partition: start at its beginning."""
        try:
            async with asyncio.timeout(self._config.request_timeout_ms / 1000):
                with no_silent_cancellation():
                    await consumer.seek_to_beginning(place)
        except IllegalStateError:
            logger.info("%s went to another member before it was begun", place)
        except (KafkaError, TimeoutError) as error:
            await self._drop()
            raise away(self._config, error) from error

    def _lost(self, offsets: dict[TopicPartition, int]) -> UnavailableError:
        places = ", ".join(f"{place.topic}[{place.partition}] at {offset}" for place, offset in offsets.items())
        return UnavailableError(
            f"group {self._group!r} stands at an offset that Kafka does not have: {places}; the topic was made anew or "
            "its retention has passed the group. Nothing is skipped unasked: set the group's offset with "
            f"kafka-consumer-groups --group {self._group} --reset-offsets"
        )

    async def _check(self, consumer: AIOKafkaConsumer) -> None:
        """After a quiet time: is Kafka there, and is this consumer only idle, or is it stuck?

        aiokafka may stop fetching after a broker's restart and say nothing. A partition that is behind its end at two
        checks, at the same position, is stuck; so is a group that does not come together. Both get a new consumer.
        """
        try:
            async with asyncio.timeout(self._config.request_timeout_ms / 1000):
                with no_silent_cancellation():
                    behind = await _positions_behind(consumer)
        except IllegalStateError:
            return
        except (KafkaError, TimeoutError) as error:
            await self._drop()
            raise away(self._config, error) from error
        stuck = [place for place, position in behind.items() if self._behind.get(place) == position]
        self._behind = behind
        if stuck or self._joining >= _JOIN_CHECKS:
            logger.warning("the Kafka consumer of group %s is stuck and is replaced: %s", self._group, stuck)
            await self._drop()


async def _positions_behind(consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    owned = consumer.assignment()
    if not owned:
        # A spare member has nothing to fetch; that a broker answers is all there is to see.
        await consumer.topics()
        return {}
    ends = await consumer.end_offsets(owned)
    positions = {place: await consumer.position(place) for place in owned}
    return {place: position for place, position in positions.items() if position < ends[place]}
