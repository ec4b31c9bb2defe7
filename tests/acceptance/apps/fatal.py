"""A worker whose handler dies of some events, in a process of its own. `python fatal.py write|work`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Aggregate, Command, Event, Repository, applies

LEDGER = Path(os.environ["LEDGER"])


class Said(Event, name="fatal.said"):
    what: str


class Voice(Aggregate, category="voice"):
    @applies
    def on_said(self, event: Said) -> None: ...


class Say(Command[None]):
    voice: str
    what: str


cqrs = CQRS()
cqrs.register(Said)


@cqrs.handles(Say)
async def say(command: Say, voices: Repository[Voice]) -> None:
    (await voices.get_or_new(uuid5(UUID(int=1), command.voice))).record(Said(what=command.what))


def note(what: str) -> None:
    """Outside of the database: it never forgets."""
    with LEDGER.open("a") as ledger:
        ledger.write(f"{what}\n")


def noted() -> list[str]:
    return LEDGER.read_text().split()


@cqrs.on(Said, name="listener")
async def listen(event: Said, session: AsyncSession) -> None:
    note(event.what)
    await session.execute(text("INSERT INTO heard (what) VALUES (:what)"), {"what": event.what})
    if event.what.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)


@cqrs.on(Said, name="bystander")
async def stand_by(event: Said) -> None:
    await asyncio.sleep(0.2)


async def write() -> None:
    async with cqrs.running(workers=()):
        async with cqrs.database.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE heard (what TEXT)"))
        for voice, what in (("a", "a1"), ("a", "poison"), ("a", "a2"), ("b", "b1"), ("a", "a3")):
            await cqrs.mediator.send(Say(voice=voice, what=what))


async def work() -> None:
    """Until the last event was heard."""
    async with cqrs.running(workers=("consumer",)):
        while "b1" not in noted():
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)


if __name__ == "__main__":
    asyncio.run(write() if sys.argv[1] == "write" else work())
