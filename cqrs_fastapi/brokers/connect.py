"""From a broker's URL to its adapter."""

from __future__ import annotations

from urllib.parse import urlsplit

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.memory.broker import MemoryBroker
from cqrs_fastapi.brokers.memory.config import MemoryConfig
from cqrs_fastapi.brokers.tokens import TokenProvider
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.settings import Settings

_SUPPORTED = "memory:// and kafka://host:9092"
_PLANNED = frozenset({"amqp", "amqps", "sns+sqs"})


def connect(url: str, settings: Settings, tokens: TokenProvider | None = None) -> Broker:
    """Choose the adapter by the scheme; nothing is opened yet. ConfigurationError for a URL that cannot be served."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise ConfigurationError(f"the broker's URL cannot be read: {error}; write one of: {_SUPPORTED}") from error
    if scheme == "memory":
        return MemoryBroker(MemoryConfig.parse(url, settings))
    if scheme == "kafka":
        # Only here, so that an application without Kafka never loads its driver.
        from cqrs_fastapi.brokers.kafka.broker import KafkaBroker  # noqa: PLC0415

        return KafkaBroker(KafkaConfig.parse(url, settings, tokens))
    if scheme in _PLANNED:
        raise ConfigurationError(f"{scheme}:// is not supported by this version; write one of: {_SUPPORTED}")
    # Only the scheme is repeated: the rest of a URL may hold a password.
    raise ConfigurationError(f"no broker speaks {scheme or 'a URL without a scheme'!r}; write one of: {_SUPPORTED}")
