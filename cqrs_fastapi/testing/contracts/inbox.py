"""What the inbox promises on a database. Subclass it in a test module and give it an empty database of your kind:

    class TestInboxOnMyDatabase(InboxContract):
        @pytest.fixture
        def database_url(self) -> str:
            return "postgresql+asyncpg://..."

Each test needs one of its own; it is migrated here, and gets a table `contract_effects`.
"""

# ruff: noqa: S101 -- a suite asserts, and its numbers are the cases themselves.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.mediation.event_map import Effects
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.testing.harness import Harness

TOPIC = "contract.came"
_PATIENCE = 30.0

_effects = Table(
    "contract_effects",
    MetaData(),
    Column("n", Integer, primary_key=True),
    Column("key", String(100)),
    Column("number", Integer),
)


class Came(Event, name="contract.came", topic=TOPIC):
    key: str
    number: int


@dataclass
class Consumer:
    """An application whose one handler writes a row for each message, and then does what the test says."""

    harness: Harness
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    then: Callable[[Came], None] = lambda _: None

    async def put(self, *messages: OutgoingMessage) -> None:
        """Returns when all of them are settled."""
        publisher = await self.harness.broker.publisher()
        async with asyncio.timeout(_PATIENCE):
            await publisher.publish(messages)
        await publisher.close()

    async def effects(self) -> list[tuple[str, int]]:
        query = select(_effects.c.key, _effects.c.number).order_by(_effects.c.n)

        def read(connection: Connection) -> list[tuple[str, int]]:
            return [(row.key, row.number) for row in connection.execute(query)]

        return await self.harness.cqrs.database.read(read)


def message(key: str, number: int, message_id: UUID | None = None) -> OutgoingMessage:
    """As another service would send it."""
    one = message_id or uuid4()
    headers = {"message-id": str(one), "type": TOPIC, "version": "1"}
    return OutgoingMessage(one, TOPIC, key, f'{{"key":"{key}","number":{number}}}'.encode(), headers)


class InboxContract:
    """Override `database_url`. Every promise is made to handlers with a transaction for each message, and to those that
    share them.
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def database_url(self) -> str:
        raise NotImplementedError("override the fixture `database_url` and return that of an empty database")

    @pytest.fixture(params=["any", "database"])
    async def consumer(self, request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Consumer]:
        effects: Effects = request.param
        cqrs = Application(settings=Settings(service="contract", handler_attempts=2, topic_partitions=1))
        harness = Harness(cqrs, database_url=database_url)
        consumer = Consumer(harness)

        async def write(event: Came, session: AsyncSession) -> None:
            consumer.begun.set()
            await session.execute(insert(_effects).values(key=event.key, number=event.number))
            consumer.then(event)

        cqrs.events.bind(Came, write, name="contract-writer", effects=effects)
        async with harness:
            await cqrs.database.write(_effects.create)
            yield consumer

    async def test_a_message_has_one_effect_however_often_it_comes(self, consumer: Consumer) -> None:
        messages = [message(f"k{number % 4}", number) for number in range(20)]
        await consumer.put(*messages, *messages)
        await consumer.put(*reversed(messages))
        assert sorted(number for _, number in await consumer.effects()) == list(range(20))

    async def test_each_key_keeps_its_order(self, consumer: Consumer) -> None:
        await consumer.put(*(message(f"k{number % 4}", number) for number in range(60)))
        for key in range(4):
            mine = [number for found, number in await consumer.effects() if found == f"k{key}"]
            assert mine == list(range(key, 60, 4))

    async def test_what_fails_for_a_while_leaves_one_effect_in_its_place(self, consumer: Consumer) -> None:
        left = {3: 1, 7: 1}

        def fail_first(event: Came) -> None:
            if left.get(event.number, 0):
                left[event.number] -= 1
                raise RuntimeError("planned")

        consumer.then = fail_first
        await consumer.put(*(message("k", number) for number in range(10)))
        assert [number for _, number in await consumer.effects()] == list(range(10))

    async def test_what_fails_for_good_parks_with_all_behind_it_and_is_replayed_in_order(
        self, consumer: Consumer
    ) -> None:
        broken = {2}

        def fail(event: Came) -> None:
            if event.number in broken:
                raise RuntimeError("planned")

        consumer.then = fail
        messages = [message("k", number) for number in range(6)] + [message("other", number) for number in (10, 11)]
        await consumer.put(*messages)
        assert sorted(await consumer.effects()) == [("k", 0), ("k", 1), ("other", 10), ("other", 11)]
        dead_letters = consumer.harness.cqrs.dead_letters
        letters = {letter.message_id: letter async for letter in dead_letters.all("contract-writer")}
        assert letters.keys() == {one.message_id for one in messages[2:6]}
        assert all(letters[one.message_id].payload == one.payload for one in messages[2:6])

        broken.clear()
        assert await dead_letters.replay_key("contract-writer", "k") == 4  # noqa: PLR2004
        assert [number for key, number in await consumer.effects() if key == "k"] == list(range(6))
        await consumer.put(*messages, message("k", 6))
        assert [number for key, number in await consumer.effects() if key == "k"] == list(range(7))

    async def test_what_cannot_be_read_is_kept_and_stops_nobody(self, consumer: Consumer) -> None:
        odd = OutgoingMessage(uuid4(), TOPIC, "k", b"\xff\0", {"type": TOPIC, "version": "1"})
        await consumer.put(message("k", 0), odd, message("k", 1))
        assert await consumer.effects() == [("k", 0), ("k", 1)]
        [letter] = [letter async for letter in consumer.harness.cqrs.dead_letters.all()]
        assert letter.payload == odd.payload
        assert letter.error

    async def test_a_consumer_that_is_stopped_in_the_middle_leaves_nothing_half_done(self, consumer: Consumer) -> None:
        cqrs = consumer.harness.cqrs
        messages = [message(f"k{number % 4}", number) for number in range(80)]
        putting = asyncio.create_task(consumer.put(*messages))
        async with asyncio.timeout(_PATIENCE):
            await consumer.begun.wait()
        await cqrs.stop_workers()
        await cqrs.start_workers(["consumer"])
        await putting
        found = await consumer.effects()
        assert sorted(number for _, number in found) == list(range(80))
        for key in range(4):
            assert [number for one, number in found if one == f"k{key}"] == list(range(key, 80, 4))
