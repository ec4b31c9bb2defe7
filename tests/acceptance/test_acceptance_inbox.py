"""Line 5: the inbox by (consumer, message id), its retention, and what looks at a message before its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Event, Settings
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.scheduling.retention import Retention

pytestmark = pytest.mark.anyio

effects = Table(
    "effects", MetaData(), Column("n", Integer, primary_key=True), Column("handler", String), Column("what", String)
)
TOPIC = f"inbox-{uuid4().hex[:8]}"


class Sold(Event, name="shop.sold", topic=TOPIC):
    what: str


def validate(event: Sold) -> None:
    if event.what == "nothing":
        raise ValueError("nothing was sold")


def build(url: str, broker_url: str) -> CQRS:
    cqrs = CQRS(settings=Settings(database_url=url, broker_url=broker_url, service=TOPIC, handler_attempts=1))

    @cqrs.on(Sold, name="books", validate=validate)
    async def keep_books(event: Sold, session: AsyncSession) -> None:
        await session.execute(insert(effects).values(handler="books", what=event.what))

    @cqrs.on(Sold, name="stock", where=lambda event: event.what != "voucher")
    async def count_stock(event: Sold, session: AsyncSession) -> None:
        await session.execute(insert(effects).values(handler="stock", what=event.what))

    return cqrs


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_inbox_each_handler_has_each_message_once_however_often_it_comes_and_for_how_long(
    postgres_url: str, kafka_bootstrap: str
) -> None:
    cqrs = build(postgres_url, f"kafka://{kafka_bootstrap}")
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    tables = cqrs.database.tables
    sold = [(uuid4(), "apple"), (uuid4(), "voucher"), (uuid4(), "nothing"), (uuid4(), "pear")]

    async def publish(messages: list[tuple[UUID, str]]) -> None:
        publisher = await cqrs.broker.publisher()
        for message_id, what in messages:
            headers = {"message-id": str(message_id), "type": "shop.sold", "version": "1"}
            payload = b'{"what":"%s"}' % what.encode()
            await publisher.publish([OutgoingMessage(message_id, TOPIC, what, payload, headers)])
        await publisher.close()

    async def effects_of(handler: str) -> list[str]:
        query = select(effects.c.what).where(effects.c.handler == handler)
        return sorted(await cqrs.database.read(lambda c: list(c.execute(query).scalars())))

    async def rows() -> set[tuple[str, UUID, str]]:
        inbox = tables.inbox
        found = await cqrs.database.read(lambda c: c.execute(select(inbox)).all())
        return {(row.consumer, row.message_id, row.status) for row in found}

    async with cqrs.running(workers=("consumer",)):
        await cqrs.broker.ensure_topics([TOPIC])
        for _ in range(3):
            await publish(sold)
        last = uuid4()
        await publish([(last, "end"), *((uuid4(), f"end-{number}") for number in range(12))])

        async def is_through() -> bool:
            return len(await effects_of("stock")) == 16

        await until(is_through)
        ends = ["end", *sorted(f"end-{number}" for number in range(12))]
        assert await effects_of("books") == sorted(["apple", "pear", "voucher", *ends])
        assert await effects_of("stock") == sorted(["apple", "nothing", "pear", *ends])
        ids = dict(sold)
        found = {(consumer, ids[one], status) for consumer, one, status in await rows() if one in ids}
        assert found == {
            ("books", "apple", "done"),
            ("books", "voucher", "done"),
            ("books", "nothing", "parked"),
            ("books", "pear", "done"),
            ("stock", "apple", "done"),
            ("stock", "nothing", "done"),
            ("stock", "pear", "done"),
        }

        # Long after, only what is parked is remembered: it is not handled beside its letter.
        aged = update(tables.inbox).values(received_at=datetime.now(UTC) - cqrs.settings.retention * 2)
        await cqrs.database.write(lambda c: c.execute(aged))
        await Retention(cqrs.database, cqrs.settings, batch=7).delete_old()
        assert {(consumer, status) for consumer, _, status in await rows()} == {("books", "parked")}
        await publish([sold[2], (uuid4(), "after")])

        async def is_after() -> bool:
            return "after" in await effects_of("stock") and "after" in await effects_of("books")

        await until(is_after)
        [letter] = [one async for one in cqrs.dead_letters.all("books")]
        assert (letter.code, letter.message_id) == ("refused_by_validator", sold[2][0])
