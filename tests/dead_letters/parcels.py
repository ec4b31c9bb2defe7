"""An application whose handler does what a script says, fed from its own store and by a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4, uuid5

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Aggregate, Command, Event, FailurePolicy, Metadata, Repository, Settings, applies
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.dead_letters.parking import Letter
from cqrs_fastapi.migrations import upgrade

effects = Table("effects", MetaData(), Column("n", Integer, primary_key=True), Column("what", String))
NAMES = UUID(int=7)


class Moved(Event, name="parcel.moved"):
    what: str


class Told(Event, name="news.told", topic="news"):
    what: str


class Parcel(Aggregate, category="parcel"):
    @applies
    def on_moved(self, event: Moved) -> None: ...


class Move(Command[None]):
    parcel: str
    whats: tuple[str, ...]


class Script:
    """`errors`: what the handler raises for an event, from the first attempt on; then it does its work."""

    def __init__(self) -> None:
        self.errors: dict[str, list[Callable[[], Exception]]] = {}
        self.seen: list[str] = []
        self.ids: list[UUID] = []

    def fail(self, what: str, error: Callable[[], Exception] = lambda: RuntimeError("planned"), times: int = 1) -> None:
        self.errors.setdefault(what, []).extend([error] * times)

    def mend(self) -> None:
        self.errors.clear()


def build(url: str, script: Script, **bound: Any) -> CQRS:
    settings = Settings(
        database_url=url,
        service="tests",
        retry_backoff="PT0.01S",
        handler_attempts=3,
        relay_poll="PT0.05S",
        subscription_poll="PT0.05S",
        drain_timeout="PT5S",
    )
    cqrs = CQRS(settings=settings)
    cqrs.register(Moved, Told)

    @cqrs.handles(Move)
    async def move(command: Move, parcels: Repository[Parcel]) -> None:
        parcel = await parcels.get_or_new(uuid5(NAMES, command.parcel))
        for what in command.whats:
            parcel.record(Moved(what=what))

    async def work(event: Moved | Told, session: AsyncSession, metadata: Metadata) -> None:
        script.seen.append(event.what)
        script.ids.append(metadata.message_id)
        await session.execute(insert(effects).values(what=event.what))
        if script.errors.get(event.what):
            error = script.errors[event.what].pop(0)()
            raise error

    cqrs.events.bind(Moved, work, name="worker", **bound)
    cqrs.events.bind(Told, work, name="worker", **bound)
    return cqrs


async def prepare(url: str) -> None:
    cqrs = build(url, Script())
    if url.startswith("sqlite"):
        await cqrs.database.open()
    async with cqrs.database.engine.begin() as connection:
        if url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    await cqrs.database.close()


@asynccontextmanager
async def opened(
    url: str, script: Script, *, on_failure: FailurePolicy | None = None, **bound: Any
) -> AsyncIterator[CQRS]:
    """An application at work, on a database that is made."""
    await prepare(url)
    if on_failure is not None:
        bound["on_failure"] = on_failure
    cqrs = build(url, script, **bound)
    async with cqrs.running(workers=("relay", "consumer")):
        yield cqrs


async def move(cqrs: CQRS, parcel: str, *whats: str) -> None:
    await cqrs.mediator.send(Move(parcel=parcel, whats=whats))


async def tell(cqrs: CQRS, key: str | None, *whats: str) -> list[UUID]:
    """Messages of another service."""
    publisher, ids = await cqrs.broker.publisher(), []
    for what in whats:
        ids.append(uuid4())
        headers = {"message-id": str(ids[-1]), "type": "news.told", "version": "1"}
        await publisher.publish([OutgoingMessage(ids[-1], "news", key, b'{"what":"%s"}' % what.encode(), headers)])
    await publisher.close()
    return ids


async def done(cqrs: CQRS) -> list[str]:
    query = select(effects.c.what).order_by(effects.c.n)
    return list(await cqrs.database.read(lambda c: c.execute(query).scalars().all()))


async def letters(cqrs: CQRS) -> list[Letter]:
    """In their order."""
    return sorted([one async for one in cqrs.dead_letters.all()], key=lambda one: (one.sequence or "", one.ordinal))


async def parked(cqrs: CQRS) -> list[str]:
    return [one.payload.decode().split('"')[3] for one in await letters(cqrs)]


async def closed(cqrs: CQRS) -> int:
    blocked = cqrs.database.tables.blocked_keys
    return len(await cqrs.database.read(lambda c: c.execute(select(blocked)).all()))


async def inbox(cqrs: CQRS) -> dict[str, int]:
    """How many rows there are of each status."""
    table = cqrs.database.tables.inbox
    found = await cqrs.database.read(lambda c: c.execute(select(table.c.status)).scalars().all())
    return {status: list(found).count(status) for status in found}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def until_done(cqrs: CQRS, *whats: str) -> None:
    """These, in this order, and nothing else."""

    async def is_done() -> bool:
        return len(await done(cqrs)) >= len(whats)

    await until(is_done)
    assert await done(cqrs) == list(whats)


async def until_parked(cqrs: CQRS, *whats: str) -> None:
    """These, in this order, and nothing else."""

    async def is_parked() -> bool:
        return len(await letters(cqrs)) >= len(whats)

    await until(is_parked)
    assert await parked(cqrs) == list(whats)
