"""Every setting, read once from `CQRS_*` variables or given by hand. Nothing else reads the environment."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic.functional_validators import BeforeValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

WorkerName = Literal["relay", "consumer", "scheduler"]

ALL_WORKERS: tuple[WorkerName, ...] = ("relay", "consumer", "scheduler")


def _split(value: object) -> object:
    """`relay,consumer` as an environment variable; the empty string is no worker at all."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class Settings(BaseSettings):
    """`Settings()` reads the environment; each field is `CQRS_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="CQRS_", frozen=True, extra="forbid")

    service: str = Field(default="app", pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    """The name of this service: its consumer group and its leases."""

    database_url: str = "sqlite+aiosqlite:///./cqrs.db"
    broker_url: str = "memory://"
    table_prefix: str = Field(default="cqrs_", pattern=r"^[a-z][a-z0-9_]{0,30}$")
    database_schema: str | None = Field(default=None, pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """PostgreSQL schema of the framework's tables; None is the connection's search path."""

    pool_size: int = Field(default=20, ge=1)
    pool_overflow: int = Field(default=0, ge=0)
    pool_timeout: timedelta = timedelta(seconds=10)

    run_in_app: Annotated[tuple[WorkerName, ...], NoDecode, BeforeValidator(_split)] = ALL_WORKERS
    """Workers that run inside the web application; empty where sidecars do it (`CQRS_RUN_IN_APP=`)."""

    command_timeout: timedelta = timedelta(seconds=30)
    """How long a command may take before its commit begins, with all repetitions of its decision; after that it is
    never cancelled.
    """
    max_units_of_work: int = Field(default=1000, ge=1)
    """Units of work under way at once in this process; one more is refused as overloaded."""
    conflict_retries: int = Field(default=10, ge=0)
    """How often a command is decided again that conflicts though nobody else has written in between; one that has lost
    a race is decided again until its `command_timeout` is over. 0: none is ever decided again.
    """

    max_body_bytes: int = Field(default=1 << 20, ge=1)
    max_event_bytes: int = Field(default=900_000, ge=1)
    """An event that would not fit a broker message is refused before the commit."""
    max_message_bytes: int = Field(default=1 << 20, ge=1)
    """A received message whose payload is larger, also inflated, is parked unread; one that would be sent larger, with
    key and headers, is refused before the commit.
    """
    max_append_events: int = Field(default=10_000, ge=1)

    relay_batch: int = Field(default=500, ge=1)
    relay_poll: timedelta = timedelta(milliseconds=500)
    """The relay is woken by its own process after a commit; polling finds what other processes wrote."""
    topic_grace: timedelta = timedelta(minutes=1)
    """How long the broker may not know a topic before what is sent to it is parked as a dead letter; not ready
    meanwhile."""
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """In front of the names of all topics and consumer groups at the broker: `staging.` for an environment that shares
    it with others. Nothing in the application knows it.
    """
    topic_partitions: int = Field(default=6, ge=1)
    topic_replication: int = Field(default=1, ge=1)
    create_topics: bool = True

    personal_data_keys: SecretStr | None = None
    """`main:<base64 of 32 random bytes>`: what the keys of data subjects are encrypted with; older ones behind it."""

    subscription_poll: timedelta = Field(default=timedelta(milliseconds=200), gt=timedelta(0))
    """How often durable handlers look for events in the store that other processes have written; while nothing
    happens the pauses grow up to a second. Their own process wakes them after a commit."""
    handler_attempts: int = Field(default=5, ge=1)
    """How often a durable handler is tried before its message is parked as a dead letter."""
    retry_backoff: timedelta = timedelta(milliseconds=200)
    """The first pause between attempts; it doubles up to ten seconds."""

    consumer_keys: int = Field(default=8, ge=1)
    """How many keys of one partition a durable handler works on at once; each key keeps its order."""
    consumer_batch: int = Field(default=200, ge=1)
    """How many messages of a handler with effects="database" share one transaction at most."""
    consumer_prefetch: int = Field(default=4000, ge=1)
    """How many received messages a consumer holds at most, in all its partitions."""
    consumer_prefetch_bytes: int = Field(default=8 << 20, ge=1)
    """The same in bytes of payload; what the broker's client has fetched comes on top of it."""

    retention: timedelta = timedelta(days=14)
    """How long inbox rows and finished records are kept; longer than any topic keeps its messages."""
    drain_timeout: timedelta = timedelta(seconds=10)
    """How long workers may finish what they hold when the application stops."""
