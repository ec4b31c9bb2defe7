"""Why Kafka cannot be reached: aiokafka tells it to its log alone, and whoever waits for it wants to know."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.faults import describe, no_silent_cancellation


async def reason_of(config: KafkaConfig, arguments: dict[str, Any], *, seconds: float) -> str:
    """What the first server says to a connection of its own; empty if it answers. No secret is in it."""
    host, _, port = config.servers[0].rpartition(":")
    try:
        async with asyncio.timeout(seconds):
            with no_silent_cancellation():
                return await _asked(config, await create_conn(host, int(port), client_id=config.client_id, **arguments))
    except TimeoutError:
        return "nothing came in time"
    except Exception as error:  # noqa: BLE001  # aiokafka and a token provider raise what they like
        return _told(config, error)


async def _asked(config: KafkaConfig, connection: AIOKafkaConnection) -> str:
    """Some refusals are seen by the first request only, and that of a token by an answer that means nothing."""
    try:
        answer: Any = await connection.send(MetadataRequest([]))
    finally:
        connection.close()
    if not answer.brokers:
        return _REFUSED_TOKEN if config.sasl_mechanism == "OAUTHBEARER" else "it names no brokers"
    return ""


def _told(config: KafkaConfig, error: BaseException) -> str:
    """What to look at. The driver's texts hold neither password nor token; of other errors only the kind is told."""
    return _tls(error) or _sasl(config, error) or _other(config, error)


def _tls(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message}); see ca_file, and the host's name in the URL"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or type(error).__name__}); see security_protocol and certificate_file"
    return ""


def _sasl(config: KafkaConfig, error: BaseException) -> str:
    if isinstance(error, errors.SaslAuthenticationFailed):
        return f"it refuses the password of the user {config.username!r} ({config.sasl_mechanism})"
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"it does not know {config.sasl_mechanism}; see sasl_mechanism"
    return ""


def _other(config: KafkaConfig, error: BaseException) -> str:
    if not isinstance(error, errors.KafkaError | OSError):
        return f"{type(error).__name__} while the connection was made"
    closed = isinstance(error, errors.KafkaConnectionError | ConnectionResetError)
    return f"{describe(error)}; perhaps it expects {_EXPECTED[config.security_protocol]}" if closed else describe(error)


_REFUSED_TOKEN = "it refuses the token (OAUTHBEARER)"  # noqa: S105  # a sentence
_EXPECTED = {
    "PLAINTEXT": "TLS or credentials: see security_protocol",
    "SASL_PLAINTEXT": "TLS: see security_protocol",
    "SSL": "a certificate_file, credentials, or no TLS: see security_protocol",
    "SASL_SSL": "no TLS, or none of these credentials: see security_protocol",
}
