"""Creating topics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from cqrs_fastapi.brokers.kafka.client import connection, unreachable
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import is_topic
from cqrs_fastapi.errors import ConfigurationError, UnavailableError


async def ensure_topics(config: KafkaConfig, topics: Sequence[str]) -> None:
    """Create the missing ones. ConfigurationError for one that this cluster will never let us create."""
    for topic in topics:
        if not is_topic(topic):
            raise ConfigurationError(f"{topic!r} is no topic name; use 1-249 letters, digits, '.', '_' or '-'")
    admin = AIOKafkaAdminClient(**connection(config, AIOKafkaAdminClient))
    try:
        # Twice the time of one request: one to find what is missing, one to create it.
        async with asyncio.timeout(2 * config.request_timeout_ms / 1000):
            await admin.start()
            # Asking for all names creates none, and whoever may not create finds an existing topic this way.
            missing = sorted(set(topics) - set(await admin.list_topics()))
            if missing:
                await _create(config, admin, missing)
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
