"""Writes its own table and the outbox in a transaction of its own, and dies where it is told.

    python own_session.py POINT NUMBER

Points: `added` (before the commit), `inserted` (in the middle of the commit, after the outbox has inserted),
`committed` (after it), `never`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from cqrs_fastapi import CQRS, Event


class Ordered(Event, topic="orders", key="customer"):
    customer: str
    number: int


cqrs = CQRS()
cqrs.register(Ordered)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(point: str, number: int) -> None:
    async with cqrs.running(workers=()):
        engine = create_async_engine(cqrs.settings.database_url)
        async with AsyncSession(engine) as session:
            await session.execute(text("INSERT INTO mine VALUES (:n)"), {"n": number})
            outbox = cqrs.outbox(session)
            await outbox.add(Ordered(customer="c", number=number))
            await outbox.add_raw("raw", str(number).encode(), key="k")
            if point == "added":
                die()
            if point == "inserted":
                event.listen(session.sync_session, "before_commit", die)
            await session.commit()
            if point == "committed":
                die()
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
