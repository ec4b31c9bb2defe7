"""What every broker adapter promises to who listens without a group. Use it as `BrokerContract`."""

# ruff: noqa: S101 -- a suite asserts, and its numbers are the cases themselves.

from __future__ import annotations

from uuid import uuid4

import pytest

from cqrs_fastapi.brokers.broker import Broker, Delivery
from cqrs_fastapi.testing.contracts.broker import deliveries, message_id, outgoing, publishing, silence, take


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
        async with publishing(broker, [outgoing(topic, None, b"before")]):
            pass
        first, second = await broker.listen([topic]), await broker.listen([topic])
        messages = [outgoing(topic, f"k{number}", b"after") for number in range(20)]
        async with publishing(broker, messages):
            heard = [await take(listener, 20) for listener in (first, second)]

        for one in heard:
            assert {message_id(message) for message in one} == {message.message_id for message in messages}
        assert await silence(first) == []
        await first.close()
        await second.close()

    async def test_a_listener_that_is_gone_holds_nobody_up(self, broker: Broker, topic: str) -> None:
        gone, deaf = await broker.listen([topic]), await broker.listen([topic])
        await gone.close()
        async with publishing(broker, [outgoing(topic, "k", b"x")]) as sending:
            await take(deaf, 1, settle=False)
            await deaf.close()

        assert deliveries(await sending) == [Delivery.ACKNOWLEDGED]
