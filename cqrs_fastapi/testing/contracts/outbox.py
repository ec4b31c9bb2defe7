"""What the outbox promises on a database. Subclass it in a test module and give it an empty database of your kind:

    class TestOutboxOnMyDatabase(OutboxContract):
        @pytest.fixture
        def database_url(self) -> str:
            return "postgresql+asyncpg://..."

Each test needs one of its own; it is migrated here.
"""

# ruff: noqa: S101 -- a suite asserts, and its numbers are the cases themselves.

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.outbox.outbox import Outbox
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.testing.harness import Harness

TOPIC = "contract.noted"


class Noted(Event, name="contract.noted", topic=TOPIC, key="key"):
    key: str
    number: int


class UndoneError(Exception):
    """Raised in a transaction to roll it back."""


class OutboxContract:
    """Override `database_url`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def database_url(self) -> str:
        raise NotImplementedError("override the fixture `database_url` and return that of an empty database")

    @pytest.fixture
    async def harness(self, database_url: str) -> AsyncIterator[Harness]:
        cqrs = Application(settings=Settings(service="contract"))
        cqrs.register(Noted)
        async with Harness(cqrs, database_url=database_url) as harness:
            yield harness

    async def test_what_is_committed_is_sent_once_with_its_id(self, harness: Harness) -> None:
        added = await add(harness, "k", 1, 2, 3)
        await harness.settle()
        assert [message.message_id for message in harness.published(TOPIC)] == added
        assert harness.published_events(TOPIC) == [Noted(key="k", number=number) for number in (1, 2, 3)]

    async def test_what_is_rolled_back_is_never_sent(self, harness: Harness) -> None:
        with pytest.raises(UndoneError):
            await add(harness, "k", 1, undone=True)
        await add(harness, "k", 2)
        await harness.settle()
        assert harness.published_events(TOPIC) == [Noted(key="k", number=2)]

    async def test_a_savepoint_that_is_rolled_back_takes_what_was_added_since(self, harness: Harness) -> None:
        async with harness.cqrs.database.session() as session, session.begin():
            outbox = harness.cqrs.outbox(session)
            await outbox.add(Noted(key="k", number=1))
            savepoint = await session.begin_nested()
            await outbox.add(Noted(key="k", number=2))
            await savepoint.rollback()
            await outbox.add(Noted(key="k", number=3))
        await harness.settle()
        assert [event.number for event in harness.published_events(TOPIC)] == [1, 3]

    async def test_each_key_keeps_the_order_of_its_transactions(self, harness: Harness) -> None:
        keys = [f"k{number % 3}" for number in range(12)]
        await asyncio.gather(*(add(harness, key, 10 * n, 10 * n + 1) for n, key in enumerate(keys)))
        await harness.settle()
        found = defaultdict[str, list[int]](list)
        for event in harness.published_events(TOPIC):
            found[event.key].append(event.number)
        assert sorted(number for numbers in found.values() for number in numbers) == sorted(
            10 * n + m for n in range(12) for m in (0, 1)
        )
        for numbers in found.values():
            firsts, seconds = numbers[::2], numbers[1::2]
            assert [first + 1 for first in firsts] == seconds, "another transaction of the key came between"

    async def test_what_was_added_while_no_relay_ran_is_sent_by_the_next(self, harness: Harness) -> None:
        await harness.cqrs.stop_workers()
        added = await add(harness, "k", *range(20))
        assert harness.published(TOPIC) == []
        await harness.cqrs.start_workers(["relay"])
        await harness.settle()
        assert [message.message_id for message in harness.published(TOPIC)] == added

    async def test_a_delayed_message_is_sent_when_it_is_due(self, harness: Harness) -> None:
        async with harness.cqrs.database.session() as session, session.begin():
            await harness.cqrs.outbox(session).add(Noted(key="k", number=2), delay=timedelta(seconds=1))
        await add(harness, "k", 1)
        await harness.settle()
        assert [event.number for event in harness.published_events(TOPIC)] == [1]
        async with asyncio.timeout(30):
            while len(harness.published(TOPIC)) < 2:  # noqa: ASYNC110, PLR2004  # the database's clock has no event
                await asyncio.sleep(0.05)
        assert [event.number for event in harness.published_events(TOPIC)] == [1, 2]

    async def test_bytes_are_sent_as_they_are_and_what_is_too_large_is_refused(self, harness: Harness) -> None:
        async with harness.cqrs.database.session() as session, session.begin():
            outbox = harness.cqrs.outbox(session)
            with pytest.raises(CqrsError):
                await outbox.add_raw(TOPIC, b"\0" * (harness.cqrs.settings.max_event_bytes + 1))
            await outbox.add_raw("contract.raw", b"\0\xff", key="k", headers={"x-number": "7"})
        await harness.settle()
        [message] = harness.published()
        assert (message.topic, message.key, message.payload) == ("contract.raw", "k", b"\0\xff")
        assert message.headers["x-number"] == "7"


async def add(harness: Harness, key: str, *numbers: int, undone: bool = False) -> list[UUID]:
    """In one transaction; the ids of the messages."""
    async with harness.cqrs.database.session() as session, session.begin():
        outbox: Outbox = harness.cqrs.outbox(session)
        added = [await outbox.add(Noted(key=key, number=number)) for number in numbers]
        if undone:
            raise UndoneError
    return added
