"""The broker in memory, which remembers what was published."""

from __future__ import annotations

from collections.abc import Sequence

from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage, Publisher
from cqrs_fastapi.brokers.memory.broker import MemoryBroker


class RecordingBroker(MemoryBroker):
    """`published` has every message that was acknowledged, in the order in which they were sent."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[OutgoingMessage] = []

    async def publisher(self) -> Publisher:
        return _RecordingPublisher(await super().publisher(), self.published)


class _RecordingPublisher:
    def __init__(self, publisher: Publisher, published: list[OutgoingMessage]) -> None:
        self._publisher, self._published = publisher, published

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        outcomes = await self._publisher.publish(messages)
        pairs = zip(messages, outcomes, strict=True)
        self._published += [message for message, outcome in pairs if outcome.delivery is Delivery.ACKNOWLEDGED]
        return outcomes

    async def close(self) -> None:
        await self._publisher.close()
