"""A consumer of aiokafka, from start to stop, and its records as messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.brokers.kafka import headers
from cqrs_fastapi.brokers.kafka.client import connection, require_brokers, unreachable
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import no_silent_cancellation

_METADATA_MAX_AGE_MS = 5_000
_PARTITION_FETCH_BYTES = 1 << 20
_STOP_SECONDS = 10.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

logger = logging.getLogger(__name__)

GiveUp = Callable[[frozenset[TopicPartition]], Awaitable[None]]


class _OnRevoked(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    def __init__(self, give_up: GiveUp) -> None:
        self._give_up = give_up

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride] -- aiokafka awaits a coroutine
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        """An eager rebalance takes all partitions, also those that come back at once. Until this returns the member
        does not join again, and its heartbeats go on.
        """
        await self._give_up(frozenset(revoked))

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Positions are read when they are needed: see `NoOffsetForPartitionError` in the subscription."""


async def start_consumer(
    config: KafkaConfig, group: str, topics: Sequence[str], on_revoked: GiveUp
) -> AIOKafkaConsumer:
    """A consumer that has begun to join its group. UnavailableError if Kafka does not answer in bounded time."""
    consumer = AIOKafkaConsumer(
        **connection(config, AIOKafkaConsumer),
        group_id=group,
        enable_auto_commit=False,
        # Neither "earliest" nor "latest": either would also answer an offset out of range, and skip in silence.
        auto_offset_reset="none",
        isolation_level="read_committed",
        session_timeout_ms=config.session_timeout_ms,
        heartbeat_interval_ms=max(1, config.session_timeout_ms // 4),
        max_poll_interval_ms=config.max_poll_interval_ms,
        # The others wait so long for a member that finishes what it has in hand, and commits it.
        rebalance_timeout_ms=config.drain_timeout_ms + config.request_timeout_ms,
        fetch_max_bytes=config.fetch_bytes,
        max_partition_fetch_bytes=min(config.fetch_bytes, _PARTITION_FETCH_BYTES),
        # A topic that did not exist when this group came is found this soon.
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
    )
    try:
        async with asyncio.timeout(config.request_timeout_ms / 1000):
            with no_silent_cancellation():
                await consumer.start()
        require_brokers(consumer._client)  # noqa: SLF001 -- see there
    except (KafkaError, OSError, TimeoutError) as error:
        await stop_consumer(consumer)
        raise await unreachable(config, error) from error
    except asyncio.CancelledError:
        await stop_consumer(consumer)
        raise
    # After the start and not in the constructor, where a topic that does not exist would be waited for.
    consumer.subscribe(list(topics), listener=_OnRevoked(on_revoked))
    return consumer


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group, in bounded time; a member that cannot say goodbye is missed after the session's time limit."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            with no_silent_cancellation():
                await consumer.stop()
    except (KafkaError, TimeoutError) as error:
        logger.warning("a Kafka consumer did not leave its group in order: %r", error)


def incoming(record: Any) -> IncomingMessage:
    return IncomingMessage(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        # A tombstone of a compacted topic has no value; the port knows bytes only.
        payload=record.value or b"",
        headers=headers.from_wire(record.headers),
        sent_at=_time(record.timestamp),
    )


def _time(milliseconds: int) -> datetime:
    """A producer writes what it likes: a time that is none is the epoch, not a poisoned partition."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return _EPOCH
