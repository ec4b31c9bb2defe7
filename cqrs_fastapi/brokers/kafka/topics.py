"""Creating topics, and looking at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from cqrs_fastapi.brokers.broker import TopicState
from cqrs_fastapi.brokers.kafka.client import connection, unreachable
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import is_topic
from cqrs_fastapi.errors import ConfigurationError, UnavailableError

_RETENTION = "retention.ms"
_CLEANUP = "cleanup.policy"
_LARGEST = "max.message.bytes"


async def ensure_topics(config: KafkaConfig, topics: Sequence[str]) -> list[str]:
    """Create the missing ones, and say which. ConfigurationError for one that this cluster will never let us create."""
    _require_names(topics)
    async with _admin(config) as admin:
        # Asking for all names creates none, and whoever may not create finds an existing topic this way.
        missing = sorted(set(topics) - set(await admin.list_topics()))
        if missing:
            await _create(config, admin, missing)
    return missing


async def describe_topics(config: KafkaConfig, topics: Sequence[str]) -> list[TopicState]:
    """Partitions, replication and what limits there are. A right that is missing leaves its values None."""
    _require_names(topics)
    async with _admin(config) as admin:
        present = sorted(set(topics) & set(await admin.list_topics()))
        partitions = (
            {one["topic"]: one["partitions"] for one in await admin.describe_topics(present)} if present else {}
        )
        configs = await _configs(admin, present)
    return [
        _state(topic, partitions[topic], configs.get(topic, {})) if topic in partitions else TopicState(topic, False)
        for topic in topics
    ]


async def _configs(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, Mapping[str, str]]:
    if not topics:
        return {}
    wanted = [
        ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys((_RETENTION, _CLEANUP, _LARGEST), ""))
        for topic in topics
    ]
    found: dict[str, Mapping[str, str]] = {}
    try:
        responses = await admin.describe_configs(wanted)
    except (errors.UnsupportedVersionError, errors.IncompatibleBrokerVersion):
        return {}  # librdkafka's mock cluster cannot be asked
    for response in responses:
        for _, _, _, name, entries in response.resources:  # pyright: ignore[reportAttributeAccessIssue] -- untyped
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _state(topic: str, partitions: Sequence[Mapping[str, Any]], config: Mapping[str, str]) -> TopicState:
    kept, largest = config.get(_RETENTION), config.get(_LARGEST)
    retention = None if kept is None else timedelta.max if int(kept) < 0 else timedelta(milliseconds=int(kept))
    if retention is not None and "delete" not in config.get(_CLEANUP, "delete"):
        retention = timedelta.max  # the last message of each key stays
    return TopicState(
        topic,
        exists=True,
        partitions=len(partitions),
        replication=min((len(one["replicas"]) for one in partitions), default=None),
        retention=retention,
        max_message_bytes=None if largest is None else int(largest),
    )


def _require_names(topics: Sequence[str]) -> None:
    for topic in topics:
        if not is_topic(topic):
            raise ConfigurationError(f"{topic!r} is no topic name; use 1-249 letters, digits, '.', '_' or '-'")


@asynccontextmanager
async def _admin(config: KafkaConfig) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection(config, AIOKafkaAdminClient))
    try:
        # Twice the time of one request: one to find what is there, one to act on it.
        async with asyncio.timeout(2 * config.request_timeout_ms / 1000):
            await admin.start()
            yield admin
    except (errors.KafkaError, OSError, TimeoutError) as error:
        raise await unreachable(config, error) from error
    finally:
        await admin.close()


async def _create(config: KafkaConfig, admin: AIOKafkaAdminClient, topics: Sequence[str]) -> None:
    cluster = await admin.describe_cluster()
    if cluster["controller_id"] not in {broker["node_id"] for broker in cluster["brokers"]}:
        # librdkafka's mock cluster names a controller that is none of its brokers, and creates what it is asked about.
        await admin.describe_topics(list(topics))
        return
    response = await admin.create_topics([NewTopic(topic, config.partitions, config.replication) for topic in topics])
    answers: list[tuple[Any, ...]] = response.topic_errors  # pyright: ignore[reportAttributeAccessIssue] -- untyped
    for topic, code, *_ in answers:
        _check(config, topic, code)


def _check(config: KafkaConfig, topic: str, code: int) -> None:
    error = errors.for_code(code)
    if error in {errors.NoError, errors.TopicAlreadyExistsError}:
        return
    if error is errors.InvalidReplicationFactorError:
        raise UnavailableError(
            f"Kafka has fewer than {config.replication} brokers for topic {topic!r}; "
            "start more, or lower CQRS_TOPIC_REPLICATION"
        )
    if error.retriable:
        raise UnavailableError(f"Kafka could not create topic {topic!r} now: {error.__name__}")
    raise ConfigurationError(
        f"Kafka refuses to create topic {topic!r}: {error.__name__}; "
        "create it yourself, or set CQRS_CREATE_TOPICS=false"
    )
