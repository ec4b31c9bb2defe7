"""Creates the topics of an application, as soon as the broker answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.errors import UnavailableError

log = structlog.get_logger("cqrs_fastapi")

_PAUSE = 1.0


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
