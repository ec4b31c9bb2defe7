"""Two services: a warehouse that carries out commands and answers queries, and a shop that sends them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID, uuid4

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    BrokerRouter,
    Command,
    DomainError,
    Event,
    Metadata,
    Query,
    ReplyHeaders,
    Settings,
    UnitOfWork,
)
from cqrs_fastapi.brokers.broker import Broker, IncomingMessage, OutgoingMessage
from cqrs_fastapi.dead_letters.parking import Letter, newest
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.migrations import upgrade

effects = Table("effects", MetaData(), Column("n", Integer, primary_key=True), Column("what", String))


class Reserve(Command[int]):
    """Answered with how many reservations there are."""

    item: str
    amount: int = 1


class Stock(Query[list[str]]):
    item: str


class Reserved(Event):
    item: str


class SoldOutError(DomainError):
    code = "sold_out"


@dataclass
class Script:
    """What the warehouse's handlers do next, and what they were given."""

    raises: dict[str, list[Exception]] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    waits: dict[str, asyncio.Event] = field(default_factory=dict)
    seen: list[Metadata] = field(default_factory=list)

    async def play(self, item: str, metadata: Metadata) -> None:
        self.seen.append(metadata)
        if item in self.waits:
            await self.waits[item].wait()
        if self.raises.get(item):
            raise self.raises[item].pop(0)


@dataclass
class Names:
    """Topics of one test, since those of a broker are shared."""

    run: str = field(default_factory=lambda: uuid4().hex[:8])

    def __call__(self, name: str) -> str:
        return f"{name}-{self.run}"


def settings_of(service: str, database_url: str, broker_url: str) -> Settings:
    return Settings(
        service=service,
        database_url=database_url,
        broker_url=broker_url,
        retry_backoff="PT0.01S",
        handler_attempts=3,
        relay_poll="PT0.05S",
        topic_partitions=2,
        max_message_bytes=200_000,
        max_event_bytes=100_000,
    )


def warehouse_of(settings: Settings, script: Script, names: Names, broker: Broker | None = None) -> CQRS:
    cqrs = CQRS(settings=settings, broker=broker)

    @cqrs.handles(Reserve)
    async def reserve(
        command: Reserve, session: AsyncSession, unit: UnitOfWork, metadata: Metadata, headers: ReplyHeaders
    ) -> int:
        await session.execute(insert(effects).values(what=command.item))
        unit.publish(Reserved(item=command.item))
        headers["shelf"] = f"shelf-of-{command.item}"
        await script.play(command.item, metadata)
        if command.item == "-1":
            return "no number"  # type: ignore[return-value]  # what the type checker would have found
        return (await session.execute(select(func.count()).select_from(effects))).scalar_one()

    @cqrs.on(Reserved, when="in_transaction")
    async def check(event: Reserved) -> None:
        if event.item in script.rolled_back:
            raise RuntimeError("planned, after the handler has returned")

    @cqrs.handles(Stock)
    async def stock(query: Stock, session: AsyncSession, metadata: Metadata) -> list[str]:
        await script.play(query.item, metadata)
        found = await session.execute(select(effects.c.what).where(effects.c.what == query.item))
        return list(found.scalars())

    router = BrokerRouter()
    router.command(names("Reserve"), Reserve)
    router.query(names("Stock"), Stock)
    router.query(names("StockEverywhere"), Stock, to="all")
    router.command(names("ReserveEverywhere"), Reserve, to="all")
    cqrs.brokers.include(router)
    return cqrs


async def prepare(cqrs: CQRS) -> None:
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.run_sync(effects.create, checkfirst=True)


async def done(cqrs: CQRS) -> list[str]:
    query = select(effects.c.what).order_by(effects.c.n)
    return list(await cqrs.database.read(lambda c: c.execute(query).scalars().all()))


async def inbox_rows(cqrs: CQRS) -> Sequence[Any]:
    inbox = cqrs.database.tables.inbox
    return await cqrs.database.read(lambda c: c.execute(select(inbox).order_by(inbox.c.message_id)).all())


def answered_with(row: Any) -> str:
    """The status of the reply that an inbox row keeps."""
    status: str = parse_json(row.reply)["status"]
    return status


async def letters(cqrs: CQRS) -> list[Letter]:
    return await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 100))


async def put(broker: Broker, topic: str, payload: bytes, message_id: UUID, headers: dict[str, str]) -> None:
    publisher = await broker.publisher()
    await publisher.publish([OutgoingMessage(message_id, topic, None, payload, headers)])
    await publisher.close()


async def until(condition: Callable[[], Awaitable[object] | object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return
            await asyncio.sleep(0.02)


@dataclass
class Ear:
    """Hears everything on a topic from now on, as somebody else than the client."""

    broker: Broker
    topic: str
    heard: list[IncomingMessage] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.broker.ensure_topics([self.topic])
        subscription = await self.broker.listen([self.topic])

        async def hear() -> None:
            try:
                while True:
                    messages = await subscription.receive()
                    self.heard += messages
                    await subscription.settle(messages)
            finally:
                await subscription.close()

        self._task = asyncio.create_task(hear())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
