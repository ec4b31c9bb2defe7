"""A broker that several environments share: each has a prefix of its own for topics and groups.

It is put on here and taken off here. Inside of an application, in its database and in its dead letters, topics have the
names that the code gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cqrs_fastapi.brokers.broker import (
    Broker,
    IncomingMessage,
    Outcome,
    OutgoingMessage,
    Place,
    Publisher,
    Revoked,
    Subscription,
    TopicState,
)


def with_prefix(broker: Broker, prefix: str) -> Broker:
    """The broker itself where there is no prefix."""
    return PrefixedBroker(broker, prefix) if prefix else broker


@dataclass(frozen=True, slots=True)
class PrefixedBroker:
    """See `Broker`; every name that it is given or gives is without the prefix."""

    inner: Broker
    prefix: str

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def in_process(self) -> bool:
        return self.inner.in_process

    @property
    def max_message_bytes(self) -> int | None:
        return self.inner.max_message_bytes

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def ping(self) -> None:
        await self.inner.ping()

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        await self.inner.ensure_topics(self._there(topics))

    async def create_topics(self, topics: Sequence[str]) -> Sequence[str]:
        return [self._here(one) for one in await self.inner.create_topics(self._there(topics))]

    async def describe_topics(self, topics: Sequence[str]) -> Sequence[TopicState]:
        found = await self.inner.describe_topics(self._there(topics))
        return [replace(one, name=self._here(one.name)) for one in found]

    def declare_group(self, group: str, topics: Sequence[str]) -> None:
        self.inner.declare_group(self.prefix + group, self._there(topics))

    async def publisher(self) -> Publisher:
        return _PrefixedPublisher(await self.inner.publisher(), self.prefix)

    async def subscribe(self, group: str, topics: Sequence[str], *, revoked: Revoked | None = None) -> Subscription:
        async def told(places: Collection[Place]) -> None:
            if revoked is not None:
                await revoked([Place(self._here(place.topic), place.partition) for place in places])

        subscription = await self.inner.subscribe(self.prefix + group, self._there(topics), revoked=told)
        return _PrefixedSubscription(subscription, self.prefix)

    async def listen(self, topics: Sequence[str]) -> Subscription:
        return _PrefixedSubscription(await self.inner.listen(self._there(topics)), self.prefix)

    def _there(self, topics: Sequence[str]) -> list[str]:
        return [self.prefix + topic for topic in topics]

    def _here(self, topic: str) -> str:
        return topic.removeprefix(self.prefix)


@dataclass(frozen=True, slots=True)
class _PrefixedPublisher:
    inner: Publisher
    prefix: str

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        return await self.inner.publish([replace(one, topic=self.prefix + one.topic) for one in messages])

    async def close(self) -> None:
        await self.inner.close()


@dataclass(frozen=True, slots=True)
class _PrefixedSubscription:
    inner: Subscription
    prefix: str

    async def receive(self) -> Sequence[IncomingMessage]:
        return [replace(one, topic=one.topic.removeprefix(self.prefix)) for one in await self.inner.receive()]

    def pause(self, place: Place) -> None:
        self.inner.pause(self._there(place))

    def resume(self, place: Place) -> None:
        self.inner.resume(self._there(place))

    def stranded(self) -> Mapping[Place, str]:
        return {
            Place(place.topic.removeprefix(self.prefix), place.partition): why
            for place, why in self.inner.stranded().items()
        }

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        await self.inner.settle([replace(one, topic=self.prefix + one.topic) for one in messages])

    async def close(self) -> None:
        await self.inner.close()

    def _there(self, place: Place) -> Place:
        return Place(self.prefix + place.topic, place.partition)
