"""What `memory://` may say."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.settings import Settings

_OPTIONS = ("batch", "max_message_bytes")


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """The limits of a broker in memory; the defaults are those of a Kafka broker, so that both refuse the same."""

    partitions: int = 6
    batch: int = 500
    """How many messages one `receive` returns at most."""
    max_message_bytes: int = 1 << 20

    @classmethod
    def parse(cls, url: str, settings: Settings) -> MemoryConfig:
        """Read `memory://?batch=100`. ConfigurationError names an unknown option or a wrong value."""
        parts = urlsplit(url)
        if parts.netloc or parts.path not in {"", "/"}:
            raise ConfigurationError(f"{url!r} names a host or a path, and memory:// has neither; write: memory://")
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(given.keys() - set(_OPTIONS)):
            raise ConfigurationError(f"memory:// has no option {unknown[0]!r}; it knows: {', '.join(_OPTIONS)}")
        defaults = cls()
        return cls(
            partitions=settings.topic_partitions,
            batch=_positive(given, "batch", defaults.batch),
            max_message_bytes=_positive(given, "max_message_bytes", defaults.max_message_bytes),
        )


def _positive(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ConfigurationError(f"memory://?{name}={text} is no positive number; write: memory://?{name}={default}")
    return int(text)
