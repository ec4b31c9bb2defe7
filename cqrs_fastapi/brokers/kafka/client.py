"""Connections: their arguments, and how a producer that may be stuck is started and ended in bounded time."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import describe, no_silent_cancellation
from cqrs_fastapi.errors import UnavailableError

PING_SECONDS = 2.0
_TRIES = 6
_TRY_SECONDS = 0.3


def connection(config: KafkaConfig) -> dict[str, Any]:
    """The arguments that every client of aiokafka takes."""
    return {
        "bootstrap_servers": list(config.servers),
        "client_id": config.client_id,
        "request_timeout_ms": config.request_timeout_ms,
        "security_protocol": config.security_protocol,
        "ssl_context": ssl.create_default_context() if config.security_protocol.endswith("SSL") else None,
        "sasl_mechanism": config.sasl_mechanism,
        "sasl_plain_username": config.username,
        "sasl_plain_password": config.password,
    }


def away(config: KafkaConfig, error: BaseException) -> UnavailableError:
    return UnavailableError(f"Kafka at {','.join(config.servers)} does not answer: {describe(error)}")


async def ping(config: KafkaConfig) -> None:
    """Ask for metadata over a connection of its own, since an old one may be open and dead."""
    client = AIOKafkaClient(**connection(replace(config, request_timeout_ms=int(PING_SECONDS * 1000))))
    try:
        async with asyncio.timeout(PING_SECONDS):
            with no_silent_cancellation():
                await client.bootstrap()
    except (KafkaError, OSError, TimeoutError) as error:
        raise away(config, error) from error
    finally:
        await client.close()


async def start_producer(config: KafkaConfig) -> AIOKafkaProducer:
    """An idempotent producer that is ready to send. UnavailableError if there is none in bounded time."""
    producer = AIOKafkaProducer(
        **connection(config),
        acks="all",
        enable_idempotence=True,
        # Both are checked here first, so that aiokafka never refuses what is already part of a batch.
        max_request_size=config.max_message_bytes,
        max_batch_size=config.max_message_bytes // 2,
    )
    try:
        async with asyncio.timeout(config.request_timeout_ms / 1000):
            with no_silent_cancellation():
                await producer.start()
    except (KafkaError, OSError, TimeoutError) as error:
        await producer.stop()
        raise away(config, error) from error
    except asyncio.CancelledError:
        await producer.stop()
        raise
    return producer


def led_partitions(producer: AIOKafkaProducer, topic: str) -> set[int]:
    """The partitions of a known topic that can be written to; the others have no leader now.

    Where there are such, fresh metadata are asked for, since aiokafka would believe the old ones for five minutes.
    """
    led: set[int] = producer.client.cluster.available_partitions_for_topic(topic) or set()
    if len(led) < len(producer.client.cluster.partitions_for_topic(topic) or ()):
        producer.client.force_metadata_update()
    return led


async def is_unknown(producer: AIOKafkaProducer, topic: str, seconds: float) -> bool:
    """Whether a broker has just said that there is no such topic. One that is silent has said nothing."""
    client: AIOKafkaClient = producer.client
    try:
        async with asyncio.timeout(seconds):
            with no_silent_cancellation():
                is_answered: bool = await client.force_metadata_update()
    except (KafkaError, TimeoutError):
        return False
    return is_answered and client.cluster.partitions_for_topic(topic) is None


async def kill_producer(producer: AIOKafkaProducer) -> None:
    """End a producer without sending what it still has; a second life of those messages would be out of order.

    `stop()` waits for every delivery, which an idempotent producer retries without end, and there is no other public
    way out. So the connections go first, then the sender; what nobody can send any more is left to the collector.
    """
    client, sender = producer.client, producer._sender.sender_task  # noqa: SLF001 -- see above
    await client.close()
    if sender is not None and not sender.done():
        sender.cancel()
        for _ in range(_TRIES):
            _release(client)
            if (await asyncio.wait([sender], timeout=_TRY_SECONDS))[0]:
                break
        else:
            sender.cancel()
    producer._closed = True  # noqa: SLF001 -- see above


def _release(client: AIOKafkaClient) -> None:
    """Requests that failed wait for metadata before they end, and a closed client fetches none."""
    waiter, client._md_update_fut = client._md_update_fut, None  # noqa: SLF001 -- there is no public way
    if waiter is not None and not waiter.done():
        waiter.set_result(False)
