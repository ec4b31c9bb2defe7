"""The topics of an application: created as soon as the broker answers, and checked against the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from cqrs_fastapi.brokers.broker import Broker, TopicState
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.settings import Settings

log = structlog.get_logger("cqrs_fastapi")

_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class TopicProblem:
    """What is wrong with a topic, in a sentence that says what to do."""

    topic: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics that events are sent to and come from. Names are without the prefix of the environment."""

    broker: Broker
    settings: Settings
    own: Callable[[], Sequence[str]]

    async def check(self, more: Sequence[str] = ()) -> list[TopicProblem]:
        """What is wrong with them, and with `more`. UnavailableError if the broker is away, which is only asked.

        A topic is missing; or it has other partitions than the settings say; or its messages outlive the inbox, which
        would take one that comes again for new; or it takes less than an event may have.
        """
        states = await self.broker.describe_topics(self._all(more))
        return [TopicProblem(state.name, sentence) for state in states for sentence in self._problems(state)]

    async def create(self, more: Sequence[str] = ()) -> list[str]:
        """Make those that are missing, with the partitions and the replication of the settings; which they were."""
        return list(await self.broker.create_topics(self._all(more)))

    def names(self, more: Sequence[str] = ()) -> list[str]:
        """What the broker calls them."""
        return [self.settings.topic_prefix + topic for topic in self._all(more)]

    def _all(self, more: Sequence[str]) -> list[str]:
        return sorted({*self.own(), *more})

    def _problems(self, state: TopicState) -> Iterator[str]:
        settings, name = self.settings, self.settings.topic_prefix + state.name
        if not state.exists:
            yield f"{name} does not exist; run: cqrs topics create"
            return
        if state.partitions is not None and state.partitions != settings.topic_partitions:
            yield (
                f"{name} has {state.partitions} partitions and the settings say {settings.topic_partitions}; set "
                f"CQRS_TOPIC_PARTITIONS={state.partitions}, since more partitions would part a key from its past"
            )
        if state.retention is not None and state.retention >= settings.retention:
            kept = "for ever" if state.retention == timedelta.max else f"for {state.retention}"
            yield (
                f"{name} keeps messages {kept}, and inboxes remember them for {settings.retention}: one that comes "
                "again later would be handled twice; raise CQRS_RETENTION, or lower retention.ms of the topic"
            )
        if state.max_message_bytes is not None and state.max_message_bytes < settings.max_event_bytes:
            yield (
                f"{name} takes {state.max_message_bytes} bytes, and an event may have {settings.max_event_bytes}; "
                "raise max.message.bytes of the topic, or lower CQRS_MAX_EVENT_BYTES"
            )


@dataclass(slots=True)
class TopicCreator:
    """A worker that is done after its first success, and keeps trying until then."""

    broker: Broker
    topics: Sequence[str]
    name: str = "topics"

    async def create(self) -> None:
        """At once; UnavailableError if the broker does not answer."""
        await self.broker.ensure_topics(self.topics)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.create()
            except UnavailableError as error:
                log.warning("topics_not_created_yet", error=str(error))
                await self._pause(stop)
            else:
                await stop.wait()

    async def _pause(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_PAUSE):
                await stop.wait()
        except TimeoutError:
            return
