"""What `kafka://` may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from cqrs_fastapi.brokers.kafka.options import PREFIX, DriverOption, check_options, read_options
from cqrs_fastapi.brokers.kafka.security import check_credentials, check_files
from cqrs_fastapi.brokers.tokens import TokenProvider
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.settings import Settings

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Where the cluster is and how long it may take. Times are milliseconds, sizes bytes, files are read by their paths
    for each new connection, so that a renewed certificate is taken up.
    """

    servers: tuple[str, ...]
    client_id: str = "cqrs"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tokens: TokenProvider | None = field(default=None, repr=False)
    """For OAUTHBEARER."""
    ca_file: str | None = None
    """Whom to believe, in PEM; without it, the certificates of the system."""
    certificate_file: str | None = None
    """The client's own, in PEM, where the cluster asks for one."""
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    allow_cleartext_credentials: bool = False
    """Send a password or token unencrypted to another machine: only where something else encrypts, as a mesh does."""
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
    driver: Mapping[str, DriverOption] = field(default_factory=dict)
    """Other options of aiokafka, by their names, for those of its clients that have them."""

    def __post_init__(self) -> None:
        """ConfigurationError for what cannot work, however it was written."""
        check_credentials(self)
        check_files(self)
        check_options(self.driver)
        if self.drain_timeout_ms >= self.max_poll_interval_ms:
            raise ConfigurationError(
                f"drain_timeout_ms={self.drain_timeout_ms} is not below max_poll_interval_ms="
                f"{self.max_poll_interval_ms}: a member that finishes what it has in hand would be taken for dead"
            )

    @classmethod
    def parse(cls, url: str, settings: Settings, tokens: TokenProvider | None = None) -> KafkaConfig:
        """Read `kafka://user:password@host:9092,host2:9092?client_id=orders`.

        ConfigurationError names what is wrong, and never repeats the password.
        """
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        return cls(
            servers=_servers(parts, hosts),
            username=unquote(username) or None,
            password=unquote(password) or None,
            tokens=tokens,
            partitions=settings.topic_partitions,
            replication=settings.topic_replication,
            create_topics=settings.create_topics,
            **_options(_query(parts.query)),
        )


def _query(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in given:
            raise ConfigurationError(f"kafka://…?{name}= is given twice; write it once")
        given[name] = text
    return given


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


def _truth(name: str, text: str) -> bool:
    return _one_of("true", "false")(name, text) == "true"


_READERS: Mapping[str, Callable[[str, str], str | int]] = {
    "client_id": _text,
    "security_protocol": _one_of(*_PROTOCOLS),
    "sasl_mechanism": _one_of(*_MECHANISMS),
    "ca_file": _text,
    "certificate_file": _text,
    "key_file": _text,
    "key_password": _text,
    "allow_cleartext_credentials": _truth,
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
    driver = {name.removeprefix(PREFIX): text for name, text in given.items() if name.startswith(PREFIX)}
    own = {name: text for name, text in given.items() if not name.startswith(PREFIX)}
    for name in own:
        if name not in _READERS:
            raise ConfigurationError(
                f"kafka:// has no option {name!r}; it knows: {', '.join(_READERS)}; and what aiokafka knows, "
                f"as {PREFIX}fetch_min_bytes=1000000"
            )
    return {**{name: _READERS[name](name, text) for name, text in own.items()}, "driver": read_options(driver)}
