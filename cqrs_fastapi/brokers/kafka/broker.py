"""The broker on a Kafka cluster."""

from __future__ import annotations

from collections.abc import Sequence

from cqrs_fastapi.brokers.broker import Publisher, Revoked, Subscription, TopicState
from cqrs_fastapi.brokers.kafka.client import ping
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.brokers.kafka.listener import KafkaListener
from cqrs_fastapi.brokers.kafka.publisher import KafkaPublisher
from cqrs_fastapi.brokers.kafka.subscription import KafkaSubscription
from cqrs_fastapi.brokers.kafka.topics import describe_topics, ensure_topics


class KafkaBroker:
    """Each publisher and each subscription has connections of its own, made when they are first needed."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._open: list[KafkaPublisher | KafkaSubscription | KafkaListener] = []

    @property
    def name(self) -> str:
        return "kafka"

    @property
    def in_process(self) -> bool:
        return False

    @property
    def max_message_bytes(self) -> int | None:
        return self._config.max_message_bytes

    async def open(self) -> None:
        """Nothing to allocate before somebody publishes or subscribes."""

    async def close(self) -> None:
        """Close every publisher and subscription that its owner has not."""
        while self._open:
            await self._open.pop().close()

    async def ping(self) -> None:
        await ping(self._config)

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        """With partitions and replication of the settings; does nothing where the settings say create_topics=False."""
        if self._config.create_topics:
            await ensure_topics(self._config, topics)

    async def create_topics(self, topics: Sequence[str]) -> Sequence[str]:
        return await ensure_topics(self._config, topics)

    async def describe_topics(self, topics: Sequence[str]) -> Sequence[TopicState]:
        return await describe_topics(self._config, topics)

    def declare_group(self, group: str, topics: Sequence[str]) -> None:
        """Kafka keeps messages for groups that come later, so there is nothing to declare."""

    async def publisher(self) -> Publisher:
        publisher = KafkaPublisher(self._config)
        self._open.append(publisher)
        return publisher

    async def subscribe(self, group: str, topics: Sequence[str], *, revoked: Revoked | None = None) -> Subscription:
        """Returns at once, also while Kafka is away or a topic does not exist: `receive` joins the group."""
        subscription = KafkaSubscription(self._config, group, topics, revoked)
        self._open.append(subscription)
        return subscription

    async def listen(self, topics: Sequence[str]) -> Subscription:
        """As the port says; `create_topics` decides whether a missing topic is made."""
        await self.ensure_topics(topics)
        listener = KafkaListener(self._config, topics)
        await listener.start()
        self._open.append(listener)
        return listener
