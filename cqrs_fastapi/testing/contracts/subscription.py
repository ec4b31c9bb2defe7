"""What the consuming side of every broker adapter promises beyond `BrokerContract`. Subclass it in the same way:

class TestMySubscriptions(SubscriptionContract):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]: ...
"""

# ruff: noqa: S101, PLR2004 -- a suite asserts, and its numbers are the cases themselves.

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from cqrs_fastapi.brokers.broker import Broker, IncomingMessage, Place, Subscription
from cqrs_fastapi.testing.contracts.broker import PATIENCE, outgoing, publishing, silence, take


class SubscriptionContract:
    """Override `broker`; override the others where the defaults do not fit."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def broker(self) -> Broker:
        raise NotImplementedError("override the fixture `broker` and yield an open one")

    @pytest.fixture
    async def second_connection(self, broker: Broker) -> Broker:
        """Another connection to the same broker; one in memory has only itself."""
        return broker

    @pytest.fixture
    def several_members(self) -> None:
        """Override and call `pytest.skip` where the server under test cannot share a group."""

    @pytest.fixture
    async def topic(self, broker: Broker) -> str:
        topic = f"contract-{uuid4().hex}"
        await broker.ensure_topics([topic])
        return topic

    @pytest.fixture
    def group(self) -> str:
        return f"contract-{uuid4().hex}"

    async def test_a_paused_partition_is_silent_and_the_others_are_not(
        self, broker: Broker, topic: str, group: str
    ) -> None:
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, [outgoing(topic, f"key-{n}", b"") for n in range(40)]):
            places = [message.place for message in await take(subscription, 40)]
        assert len(set(places)) > 1
        paused = places[0]
        subscription.pause(paused)
        async with publishing(broker, [outgoing(topic, f"key-{n}", b"") for n in range(40)]):
            others = await take(subscription, sum(place != paused for place in places))
            assert paused not in {message.place for message in others}
            assert await silence(subscription) == []
            subscription.resume(paused)
            rest = await take(subscription, places.count(paused))
        await subscription.close()
        assert {message.place for message in rest} == {paused}
        assert len(others) + len(rest) == 40

    async def test_what_is_resumed_wakes_a_call_that_waits(self, broker: Broker, topic: str, group: str) -> None:
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, [outgoing(topic, "k", b"1")]):
            (first,) = await take(subscription, 1)
        subscription.pause(first.place)
        async with publishing(broker, [outgoing(topic, "k", b"2")]):
            waiting = asyncio.ensure_future(subscription.receive())
            await asyncio.sleep(0.3)
            assert not waiting.done()
            subscription.resume(first.place)
            async with asyncio.timeout(PATIENCE):
                (second,) = await waiting
            await subscription.settle([second])
        await subscription.close()
        assert second.payload == b"2"

    async def test_nothing_is_stranded_while_nothing_is_lost(self, broker: Broker, topic: str, group: str) -> None:
        subscription = await broker.subscribe(group, [topic])
        async with publishing(broker, [outgoing(topic, "k", b"")]):
            await take(subscription, 1)
        assert subscription.stranded() == {}
        await subscription.close()

    @pytest.mark.usefixtures("several_members")
    async def test_what_is_settled_before_partitions_are_given_up_comes_to_nobody_again(
        self, broker: Broker, second_connection: Broker, topic: str, group: str
    ) -> None:
        """A member that finishes what it has in hand when it is asked to leaves nothing to repeat."""
        seen: list[IncomingMessage] = []
        in_hand: list[IncomingMessage] = []
        async with AsyncExitStack() as stack:
            first: Subscription

            async def revoked(_: Collection[Place]) -> None:
                await asyncio.sleep(0.5)
                await first.settle(in_hand)
                in_hand.clear()

            first = await broker.subscribe(group, [topic], revoked=revoked)
            messages = [outgoing(topic, f"key-{n}", b"") for n in range(50)]
            await stack.enter_async_context(publishing(broker, messages))
            in_hand += await take(first, 50, settle=False)
            seen += in_hand
            second = await second_connection.subscribe(group, [topic])
            # One after the other leaves: whatever was not settled would come to one of them.
            extra = await asyncio.gather(silence_of(first, 6), silence_of(second, 6))
            await first.settle(in_hand)
            assert [message for part in extra for message in part] == []
        await first.close()
        await second.close()
        assert len(seen) == 50


async def silence_of(subscription: Subscription, seconds: float) -> list[IncomingMessage]:
    """What comes in this time, although nothing should."""
    try:
        async with asyncio.timeout(seconds):
            return list(await subscription.receive())
    except TimeoutError:
        return []
