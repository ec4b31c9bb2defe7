"""Connections: their arguments, and how a producer that may be stuck is started and ended in bounded time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import describe, no_silent_cancellation
from cqrs_fastapi.brokers.kafka.options import options_for
from cqrs_fastapi.brokers.kafka.reasons import reason_of
from cqrs_fastapi.brokers.kafka.security import context_of
from cqrs_fastapi.brokers.tokens import TokenProvider
from cqrs_fastapi.errors import UnavailableError

PING_SECONDS = 2.0
_TRIES = 6
_TRY_SECONDS = 0.3


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """The user's provider, as aiokafka wants it."""

    def __init__(self, tokens: TokenProvider) -> None:
        self._tokens = tokens

    async def token(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]  # declared without a result
        try:
            return await self._tokens.token()
        except Exception as error:  # noqa: BLE001  # the user's: only its kind is told, and it is tried again later
            raise KafkaError(f"the token provider raised {type(error).__name__}") from None


def _tells_no_secret(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(type(one).__name__.startswith("SaslAuthenticate") for one in arguments)


def connection(config: KafkaConfig, client: Callable[..., Any] = AIOKafkaClient) -> dict[str, Any]:
    """The arguments that every client of aiokafka takes, and of the options those that this one takes."""
    return {
        **options_for(client, config.driver),
        "bootstrap_servers": list(config.servers),
        "client_id": config.client_id,
        "request_timeout_ms": config.request_timeout_ms,
        **_security(config),
    }


def _security(config: KafkaConfig) -> dict[str, Any]:
    # aiokafka writes what it sends into its log of connections, passwords and tokens among it.
    logging.getLogger("aiokafka.conn").addFilter(_tells_no_secret)
    return {
        "security_protocol": config.security_protocol,
        "ssl_context": context_of(config),
        "sasl_mechanism": config.sasl_mechanism,
        "sasl_plain_username": config.username,
        "sasl_plain_password": config.password,
        "sasl_oauth_token_provider": None if config.tokens is None else _Tokens(config.tokens),
    }


def away(config: KafkaConfig, error: BaseException) -> UnavailableError:
    return UnavailableError(f"Kafka at {','.join(config.servers)} does not answer: {describe(error)}")


async def unreachable(config: KafkaConfig, error: BaseException, *, seconds: float = PING_SECONDS) -> UnavailableError:
    """What to raise for a client that could not start: with the reason, if a connection of its own finds one in time,
    since aiokafka tells it to its log alone.
    """
    reason = await reason_of(config, {**_security(config), "request_timeout_ms": int(seconds * 1000)}, seconds=seconds)
    return UnavailableError(f"Kafka at {','.join(config.servers)} does not answer: {reason or describe(error)}")


async def ping(config: KafkaConfig) -> None:
    """Ask for metadata over a connection of its own, since an old one may be open and dead."""
    client = AIOKafkaClient(**connection(replace(config, request_timeout_ms=int(PING_SECONDS * 1000))))
    loop = asyncio.get_running_loop()
    ends = loop.time() + PING_SECONDS
    try:
        async with asyncio.timeout(PING_SECONDS):
            with no_silent_cancellation():
                await client.bootstrap()
        require_brokers(client)
    except (KafkaError, OSError, TimeoutError) as error:
        raise await unreachable(config, error, seconds=max(0.0, ends - loop.time())) from error
    finally:
        await client.close()


def require_brokers(client: AIOKafkaClient) -> None:
    """Of a client that has started: one without brokers is what aiokafka makes of the answer to a refused token."""
    if not client.cluster.brokers():
        raise KafkaConnectionError("it names no brokers")


async def start_producer(config: KafkaConfig) -> AIOKafkaProducer:
    """An idempotent producer that is ready to send. UnavailableError if there is none in bounded time."""
    producer = AIOKafkaProducer(
        **connection(config, AIOKafkaProducer),
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
        require_brokers(producer.client)
    except (KafkaError, OSError, TimeoutError) as error:
        await producer.stop()
        raise await unreachable(config, error) from error
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
