"""Consuming from Kafka as one member of a group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import IncomingMessage, Place, Revoked
from cqrs_fastapi.brokers.kafka.client import away
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.consumer import incoming, start_consumer, stop_consumer
from cqrs_fastapi.brokers.kafka.faults import describe, no_silent_cancellation
from cqrs_fastapi.brokers.kafka.polling import POLL_MS, Polling, Records
from cqrs_fastapi.brokers.kafka.windows import Windows
from cqrs_fastapi.errors import UnavailableError

_JOIN_CHECKS = 6

logger = logging.getLogger(__name__)


class KafkaSubscription:
    """Joins its group at the first `receive` and again after Kafka was away, so that subscribing never fails.

    A rebalance takes partitions away when `revoked` has returned, or its time is over: what was received and not
    settled then comes again, to this member or another. A group without an offset starts at the oldest message. An
    offset that the topic no longer has strands its partition and is never a jump, since messages were lost.
    """

    def __init__(self, config: KafkaConfig, group: str, topics: Sequence[str], revoked: Revoked | None) -> None:
        self._config = config
        self._group = group
        self._topics = tuple(topics)
        self._revoked = revoked
        self._consumer: AIOKafkaConsumer | None = None
        self._windows = Windows()
        self._polling = Polling(config.batch)
        self._paused: set[TopicPartition] = set()
        self._stranded: dict[TopicPartition, str] = {}
        self._behind: dict[TopicPartition, int] = {}
        self._joining = 0
        self._committing = asyncio.Lock()
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

    def pause(self, place: Place) -> None:
        self._paused.add(TopicPartition(*place))

    def resume(self, place: Place) -> None:
        self._paused.discard(TopicPartition(*place))
        self._polling.wake()

    def stranded(self) -> Mapping[Place, str]:
        """Set the group's offset while no member runs; the next start of a member tries again."""
        return {Place(*place): reason for place, reason in self._stranded.items()}

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        """As the port says. UnavailableError means that they may be received again."""
        async with self._committing:
            consumer = self._consumer
            if consumer is None:
                return
            owned = consumer.assignment()
            offsets = {place: after for place, after in self._windows.committable(messages).items() if place in owned}
            if offsets:
                await self._commit(consumer, offsets)

    async def close(self) -> None:
        self._closed = True
        await self._drop()

    async def _commit(self, consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
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

    async def _connected(self) -> AIOKafkaConsumer:
        if self._closed:
            raise UnavailableError("this Kafka subscription is closed; subscribe again")
        if self._consumer is None:
            self._consumer = await start_consumer(self._config, self._group, self._topics, self._give_up)
        return self._consumer

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        await self._polling.close()
        self._behind.clear()
        self._joining = 0
        if consumer is not None:
            places = consumer.assignment()
            await stop_consumer(consumer)
            await self._give_up(places)

    async def _give_up(self, places: Collection[TopicPartition]) -> None:
        """What is in hand may be finished and settled first, for as long as the rest of the group waits."""
        self._polling.forget()
        if self._revoked is not None and places:
            try:
                async with asyncio.timeout(self._config.drain_timeout_ms / 1000):
                    await self._revoked([Place(*place) for place in places])
            except TimeoutError:
                logger.warning("group %s takes away partitions whose work has not ended in time", self._group)
        async with self._committing:
            # A commit that is under way would be sent again after the rebalance, with the right to do so.
            self._windows.clear()
        self._paused.clear()
        self._stranded.clear()

    async def _poll(self, consumer: AIOKafkaConsumer) -> list[IncomingMessage]:
        """Nothing may be awaited between the poll and the return, or a cancellation there would lose messages."""
        try:
            records = await self._records(consumer)
        except TimeoutError:
            self._joining += 1
            return []
        except NoOffsetForPartitionError as error:
            await self._begin(consumer, error.args[0])
            return []
        except OffsetOutOfRangeError as error:
            self._strand(error.args[0])
            return []
        except (KafkaError, UnicodeDecodeError) as error:
            await self._drop()
            raise away(self._config, error) from error
        self._joining = 0
        messages = [incoming(record) for part in records.values() for record in part]
        self._windows.received(messages)
        return messages

    async def _records(self, consumer: AIOKafkaConsumer) -> Records:
        """A poll has no limit while the group is joining, so it is given one that an ordinary poll never reaches."""
        limit = asyncio.get_running_loop().time() + (self._config.stall_timeout_ms + POLL_MS) / 1000
        polling = asyncio.timeout_at(limit)
        try:
            async with polling:
                return await self._polling.poll(consumer, lambda: self._wanted(consumer))
        finally:
            if polling.expired():
                await self._polling.close()

    def _wanted(self, consumer: AIOKafkaConsumer) -> Collection[TopicPartition] | None:
        if not self._paused and not self._stranded:
            return None
        return set(consumer.assignment()) - self._paused - self._stranded.keys()

    async def _begin(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> None:
        """The group has no offset in this partition."""
        try:
            async with asyncio.timeout(self._config.request_timeout_ms / 1000):
                with no_silent_cancellation():
                    await consumer.seek_to_beginning(place)
        except IllegalStateError:
            logger.info("%s went to another member before it was begun", place)
        except (KafkaError, TimeoutError) as error:
            await self._drop()
            raise away(self._config, error) from error

    def _strand(self, offsets: Mapping[TopicPartition, int]) -> None:
        for place, offset in offsets.items():
            self._stranded[place] = (
                f"group {self._group!r} stands at an offset that Kafka does not have: {place.topic}[{place.partition}] "
                f"at {offset}; the topic was made anew or its retention has passed the group. Nothing is skipped "
                "unasked: stop the group and set its offset with "
                f"kafka-consumer-groups --group {self._group} --reset-offsets"
            )
            logger.error("%s", self._stranded[place])

    async def _check(self, consumer: AIOKafkaConsumer) -> None:
        """After a quiet time: is Kafka there, and is this consumer only idle, or is it stuck?

        aiokafka may stop fetching after a broker's restart and say nothing. A partition that is behind its end at two
        checks, at the same position, is stuck; so is a group that does not come together. Both get a new consumer.
        """
        try:
            async with asyncio.timeout(self._config.request_timeout_ms / 1000):
                with no_silent_cancellation():
                    behind = await _positions_behind(consumer, self._paused | self._stranded.keys())
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


async def _positions_behind(
    consumer: AIOKafkaConsumer, resting: Collection[TopicPartition]
) -> dict[TopicPartition, int]:
    """Of the partitions that should be going on."""
    going = consumer.assignment() - set(resting)
    if not going:
        # A spare member has nothing to fetch; that a broker answers is all there is to see.
        await consumer.topics()
        return {}
    ends = await consumer.end_offsets(going)
    positions = {place: await consumer.position(place) for place in going}
    return {place: position for place, position in positions.items() if position < ends[place]}
