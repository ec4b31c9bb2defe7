"""A small service: a command records an event with a topic; a durable handler and a projection write rows."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    Event,
    MediatorDep,
    Metadata,
    Projection,
    Repository,
    Tick,
    applies,
    on,
)

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("handler", String, nullable=False),
    Column("command", String, nullable=False),
    Column("process", Integer, nullable=False),
)
ticks = Table(
    "ticks",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("tick", String, nullable=False),
    Column("process", Integer, nullable=False),
)


class Entered(Event, topic="ledger.entries"):
    command: str
    amount: int


class Ledger(Aggregate):
    total: int = 0

    @applies
    def on_entered(self, event: Entered) -> None:
        self.total += event.amount


class Enter(Command[int]):
    ledger: UUID
    command: str
    amount: int = 1
    slow: float = 0


class Overview(Projection):
    @on(Entered)
    async def entered(self, event: Entered, session: AsyncSession) -> None:
        row = {"handler": "overview", "command": event.command, "process": os.getpid()}
        await session.execute(insert(effects).values(**row))


cqrs = CQRS()
cqrs.projections.include(Overview)


def die(point: str) -> None:
    """End as if killed, where the environment says so: the first time only, by a file that remembers it."""
    wanted, _, file = os.environ.get("DIE_AT", "").partition("@")
    if wanted == point and not os.path.exists(file):  # noqa: PTH110  # nothing here may be slow
        with open(file, "x"):  # noqa: PTH123
            os.kill(os.getpid(), 9)


@cqrs.handles(Enter)
async def enter(command: Enter, ledgers: Repository[Ledger]) -> int:
    ledger = await ledgers.get_or_new(command.ledger)
    ledger.record(Entered(command=command.command, amount=command.amount))
    if command.slow:
        await asyncio.sleep(command.slow)
    die("decided")
    return ledger.total


@cqrs.on(Entered, name="writer")
async def write(event: Entered, session: AsyncSession, current: Metadata) -> None:
    die("received")
    row = {"handler": "writer", "command": event.command, "process": os.getpid()}
    await session.execute(insert(effects).values(**row))
    die("written")


@cqrs.job(every=timedelta(seconds=1), name="ticker")
async def tick(tick: Tick, session: AsyncSession) -> None:
    await session.execute(insert(ticks).values(tick=tick.scheduled_at.isoformat(), process=os.getpid()))


app = FastAPI()
cqrs.install(app)


@app.post("/entries")
async def post(command: Enter, mediator: MediatorDep) -> int:
    total = await mediator.send(command)
    die("committed")
    return total
