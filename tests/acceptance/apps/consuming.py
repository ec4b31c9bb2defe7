"""A service that only consumes: one handler in batches, one by itself, and one that every process has for itself."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Event, ReceivedMessage, Settings
from cqrs_fastapi.cli.signals import stop_by_signal

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("handler", String, nullable=False),
    Column("key", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    Column("process", Integer, nullable=False),
)
TOPIC = os.environ["TOPIC"]
FOLDER = Path(os.environ["FOLDER"])


class Came(Event, name="other.came", topic=TOPIC):
    key: str
    number: int


cqrs = CQRS(settings=Settings())


async def write(handler: str, event: Came, session: AsyncSession, received: ReceivedMessage) -> None:
    values = {"key": event.key, "number": event.number, "place": received.offset, "process": os.getpid()}
    await session.execute(insert(effects).values(handler=handler, **values))


@cqrs.on(Came, name="batched", effects="database")
async def batched(event: Came, session: AsyncSession, received: ReceivedMessage) -> None:
    await write("batched", event, session, received)
    if os.environ.get("DIE_AT") == str(event.number):
        os.kill(os.getpid(), 9)


@cqrs.on(Came, name="alone")
async def alone(event: Came, session: AsyncSession, received: ReceivedMessage) -> None:
    await write("alone", event, session, received)


@cqrs.on(Came, name="cache", group="each process")
async def cache(event: Came) -> None:
    with (FOLDER / f"cache-{os.getpid()}").open("a") as file:
        file.write(f"{event.number}\n")


async def main() -> None:
    with stop_by_signal() as stop:
        async with cqrs.running(workers=("consumer",)):
            (FOLDER / f"ready-{os.getpid()}").touch()
            await stop.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
