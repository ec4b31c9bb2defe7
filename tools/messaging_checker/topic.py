"""Reads a topic from its beginning to the end that it has now, without a group."""

from __future__ import annotations

import json
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition

from tools.messaging_checker.evidence import Record
from tools.messaging_checker.written import entry_of

_AT_ONCE = 5_000
_MILLISECONDS = 1_000


async def read_topic(servers: str, topic: str) -> list[Record]:
    places = await _places(servers, topic)
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        return await _read(consumer, await consumer.end_offsets(places))
    finally:
        await consumer.stop()


async def _places(servers: str, topic: str) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        (told,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    partitions = sorted(one["partition"] for one in told["partitions"])
    if not partitions:
        raise LookupError(f"Kafka has no topic {topic}: {told}")
    return [TopicPartition(topic, partition) for partition in partitions]


async def _read(consumer: Any, ends: dict[TopicPartition, int]) -> list[Record]:
    records: list[Record] = []
    while any([await consumer.position(place) < end for place, end in ends.items()]):
        found = await consumer.getmany(timeout_ms=_MILLISECONDS, max_records=_AT_ONCE)
        records += [_record(one) for part in found.values() for one in part]
    return records


def _record(record: Any) -> Record:
    """What anybody who knows the documented headers can say of it; a record that is no message of ours has no id."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    key = (record.key or b"").decode("utf-8", "replace")
    entry = entry_of(json.loads(record.value))
    at = record.timestamp / 1000
    return Record(record.partition, record.offset, at, key, headers.get("message-id", ""), entry)
