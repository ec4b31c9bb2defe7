"""Reads the topic of orders from its beginning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError

from example_app.domain.order_events import ORDERS

_QUIET_MS = 1000


class TopicAwayError(Exception):
    """The broker did not answer, or has no such topic yet."""


async def read_topic(broker_url: str) -> Mapping[str, Sequence[str]]:
    """The identifiers of all messages now on the topic, by key, in the order of their offsets.

    It belongs to no consumer group and leaves nothing behind. Raises TopicAwayError.
    """
    consumer = AIOKafkaConsumer(
        ORDERS,
        bootstrap_servers=urlsplit(broker_url).netloc,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()
        return await _read(consumer)
    except (KafkaError, OSError) as error:
        raise TopicAwayError(f"the topic {ORDERS} cannot be read: {error!r}") from error
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer) -> Mapping[str, Sequence[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    partitions = sorted(consumer.assignment())
    if not partitions:
        raise TopicAwayError(f"the broker has no topic {ORDERS}")
    await consumer.seek_to_beginning(*partitions)
    ends = await consumer.end_offsets(partitions)
    while [one for one in partitions if await consumer.position(one) < ends[one]]:
        for records in (await consumer.getmany(timeout_ms=_QUIET_MS)).values():
            for record in records:
                found[(record.key or b"").decode()].append(_message_id(record))
    return found


def _message_id(record: ConsumerRecord[bytes, bytes]) -> str:
    return next((value.decode() for name, value in record.headers if name == "message-id"), "")
