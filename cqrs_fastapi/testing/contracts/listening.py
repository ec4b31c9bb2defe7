"""What every broker adapter promises to who listens without a group. Use it as `BrokerContract`."""

# ruff: noqa: S101 -- a suite asserts, and its numbers are the cases themselves.

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi.brokers.broker import Broker, Delivery, OutgoingMessage, Subscription
from cqrs_fastapi.testing.contracts.broker import PATIENCE, deliveries, message_id, outgoing, publishing, take


async def publish_all(broker: Broker, messages: Sequence[OutgoingMessage]) -> None:
    """Until each was acknowledged: what is held, for instance since the topic is new, is sent again."""
    publisher = await broker.publisher()
    async with asyncio.timeout(PATIENCE):
        while messages:
            outcomes = await publisher.publish(messages)
            pairs = zip(messages, outcomes, strict=True)
            messages = [message for message, outcome in pairs if outcome.delivery is not Delivery.ACKNOWLEDGED]
    await publisher.close()


async def hear(listener: Subscription, messages: Sequence[OutgoingMessage]) -> set[UUID]:
    """The ids of everything that came until all of these had come."""
    wanted, heard = {message.message_id for message in messages}, set[UUID]()
    async with asyncio.timeout(PATIENCE):
        while not wanted <= heard:
            batch = await listener.receive()
            await listener.settle(batch)
            heard |= {message_id(message) for message in batch}
    return heard


class ListeningContract:
    """Override `broker`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def broker(self) -> Broker:
        raise NotImplementedError("override the fixture `broker` and yield an open one")

    @pytest.fixture
    async def topic(self, broker: Broker) -> str:
        topic = f"listening-{uuid4().hex}"
        await broker.ensure_topics([topic])
        return topic

    async def test_what_is_published_from_now_on_is_received_by_everybody(self, broker: Broker, topic: str) -> None:
        before = [outgoing(topic, None, b"before")]
        await publish_all(broker, before)
        first, second = await broker.listen([topic]), await broker.listen([topic])
        after = [outgoing(topic, f"k{number}", b"after") for number in range(20)]
        hearing = [asyncio.create_task(hear(listener, after)) for listener in (first, second)]
        await publish_all(broker, after)

        for heard in await asyncio.gather(*hearing):
            assert heard == {message.message_id for message in after}
        await first.close()
        await second.close()

    async def test_a_listener_that_is_gone_holds_nobody_up(self, broker: Broker, topic: str) -> None:
        gone, deaf = await broker.listen([topic]), await broker.listen([topic])
        await gone.close()
        async with publishing(broker, [outgoing(topic, "k", b"x")]) as sending:
            await take(deaf, 1, settle=False)
            await deaf.close()

        assert deliveries(await sending) == [Delivery.ACKNOWLEDGED]
