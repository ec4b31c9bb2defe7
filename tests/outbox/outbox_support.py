"""A small application for tests of the writing side, and what its outbox holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select

from cqrs_fastapi import CQRS, Aggregate, Command, Event, Outbox, Repository, Settings, applies
from cqrs_fastapi.migrations import upgrade


class Placed(Event, name="order.placed", topic="orders", key="customer"):
    customer: str
    number: int = 0


class Noted(Event, topic="notes"):
    text: str


class Silent(Event):
    text: str


class Order(Aggregate, category="order"):
    numbers: tuple[int, ...] = ()

    @applies
    def on_placed(self, event: Placed) -> None:
        self.numbers = (*self.numbers, event.number)


class Place(Command[None]):
    order_id: UUID
    customer: str
    number: int = 0


class Add(Command[UUID]):
    """One message of bytes, by a handler."""

    topic: str = "raw"
    key: str | None = None
    payload: bytes = b"bytes"
    delay: timedelta | None = None


def settings_for(url: str, **changed: Any) -> Settings:
    return Settings(database_url=url, service="tests", relay_poll=timedelta(milliseconds=50), **changed)


def make(url: str, **changed: Any) -> CQRS:
    cqrs = CQRS(settings=settings_for(url), **changed)
    cqrs.register(Placed, Noted, Silent)

    @cqrs.handles(Place)
    async def place(command: Place, orders: Repository[Order]) -> None:
        order = await orders.get_or_new(command.order_id)
        order.record(Placed(customer=command.customer, number=command.number))

    @cqrs.handles(Add)
    async def add(command: Add, outbox: Outbox) -> UUID:
        return await outbox.add_raw(command.topic, command.payload, key=command.key, delay=command.delay)

    return cqrs


@asynccontextmanager
async def running(cqrs: CQRS, workers: tuple[Any, ...] = ()) -> AsyncIterator[CQRS]:
    if cqrs.database.dialect == "postgresql":
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=workers):
        yield cqrs


async def rows(cqrs: CQRS) -> list[Row[Any]]:
    """The outbox, in the order of positions."""
    outbox = cqrs.database.tables.outbox
    query = select(outbox).order_by(outbox.c.position)
    return await cqrs.database.read(lambda connection: list(connection.execute(query)))


async def payloads(cqrs: CQRS) -> list[bytes]:
    return [row.payload for row in await rows(cqrs)]
