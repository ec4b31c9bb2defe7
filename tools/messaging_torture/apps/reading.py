"""The service that consumes: a handler whose effect is in its database, and one that also calls a system outside."""

from __future__ import annotations

import os
import random

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Metadata
from tools.messaging_torture.apps import outside
from tools.messaging_torture.apps.entries import Entered, write_effect

cqrs = CQRS()
chance = random.Random(f"{os.environ.get('TORTURE_SEED', '')}-{os.getpid()}")  # noqa: S311  # it is for no secret

_FAILS = 0.002


class ChanceError(Exception):
    """A handler that fails after it has written, and not the next time."""


@cqrs.on(Entered, name="books", effects="database")
async def books(event: Entered, session: AsyncSession, current: Metadata) -> None:
    await write_effect(session, "books", current.message_id, event)
    if chance.random() < _FAILS:
        raise ChanceError(f"{event.client}/{event.seq} fails this time")


@cqrs.on(Entered, name="notices")
async def notices(event: Entered, session: AsyncSession, current: Metadata) -> None:
    await outside.call("notices", current.message_id, event)
    await write_effect(session, "notices", current.message_id, event)


app = FastAPI()
cqrs.install(app)
