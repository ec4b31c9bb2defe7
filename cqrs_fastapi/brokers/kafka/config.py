"""What `kafka://` may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.settings import Settings

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Where the cluster is and how long it may take. Times are milliseconds, sizes bytes."""

    servers: tuple[str, ...]
    client_id: str = "cqrs"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    partitions: int = 6
    replication: int = 1
    create_topics: bool = True
    batch: int = 500
    """How many messages one `receive` returns at most."""
    max_message_bytes: int = 1 << 20
    """A larger message is refused unsent; no more than `message.max.bytes` of the topic."""
    request_timeout_ms: int = 10_000
    ack_timeout_ms: int = 15_000
    """Without an acknowledgement for this long, the producer is taken for stuck and made anew."""
    stall_timeout_ms: int = 10_000
    """After this long without a message, a consumer checks that it is not stuck."""
    session_timeout_ms: int = 10_000
    max_poll_interval_ms: int = 300_000
    """A member that does not receive for this long leaves the group."""
    drain_timeout_ms: int = 10_000
    """How long a rebalance waits for what a member has in hand of a partition that is taken away from it."""
    fetch_bytes: int = 8 << 20
    """How much one answer of a broker brings at most; what was not handed out is kept in memory."""

    @classmethod
    def parse(cls, url: str, settings: Settings) -> KafkaConfig:
        """Read `kafka://user:password@host:9092,host2:9092?client_id=orders`.

        ConfigurationError names what is wrong, and never repeats the password.
        """
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        config = cls(
            servers=_servers(parts, hosts),
            username=unquote(username) or None,
            password=unquote(password) or None,
            partitions=settings.topic_partitions,
            replication=settings.topic_replication,
            create_topics=settings.create_topics,
            **_options(dict(parse_qsl(parts.query, keep_blank_values=True))),
        )
        _check(config)
        return config


def _servers(parts: SplitResult, hosts: str) -> tuple[str, ...]:
    if parts.path not in {"", "/"}:
        raise ConfigurationError(f"kafka:// has no path, and {parts.path!r} is one; write: kafka://host:9092")
    servers = tuple(hosts.split(","))
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 1 << 16:
            raise ConfigurationError(f"{server!r} is no host and port; write: kafka://host:9092,host2:9092")
    return servers


def _text(name: str, text: str) -> str:
    if not text:
        raise ConfigurationError(f"kafka://…?{name}= is empty; leave it out or give it a value")
    return text


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ConfigurationError(f"kafka://…?{name}={text} is no positive number")
    return int(text)


def _one_of(*allowed: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text not in allowed:
            raise ConfigurationError(f"kafka://…?{name}={text} is unknown; write one of: {', '.join(allowed)}")
        return text

    return read


_READERS: Mapping[str, Callable[[str, str], str | int]] = {
    "client_id": _text,
    "security_protocol": _one_of(*_PROTOCOLS),
    "sasl_mechanism": _one_of(*_MECHANISMS),
    "batch": _number,
    "max_message_bytes": _number,
    "request_timeout_ms": _number,
    "ack_timeout_ms": _number,
    "stall_timeout_ms": _number,
    "session_timeout_ms": _number,
    "max_poll_interval_ms": _number,
    "drain_timeout_ms": _number,
    "fetch_bytes": _number,
}


def _options(given: Mapping[str, str]) -> dict[str, Any]:
    for name in given:
        if name not in _READERS:
            raise ConfigurationError(f"kafka:// has no option {name!r}; it knows: {', '.join(_READERS)}")
    return {name: _READERS[name](name, text) for name, text in given.items()}


def _check(config: KafkaConfig) -> None:
    if config.drain_timeout_ms >= config.max_poll_interval_ms:
        raise ConfigurationError(
            f"drain_timeout_ms={config.drain_timeout_ms} is not below max_poll_interval_ms="
            f"{config.max_poll_interval_ms}: a member that finishes what it has in hand would be taken for dead"
        )
    sasl = config.security_protocol.startswith("SASL")
    if sasl != (config.username is not None and config.password is not None):
        raise ConfigurationError(
            "a user and a password go with SASL and only with it; "
            "write: kafka://user:password@host:9092?security_protocol=SASL_SSL"
        )
