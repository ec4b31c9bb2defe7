"""What both services know: the event, and the table of effects."""

from __future__ import annotations

import os
from uuid import UUID

from sqlalchemy import BigInteger, Column, Identity, Integer, MetaData, Table, Text, Uuid, insert
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import Event

TOPIC = os.environ.get("TORTURE_TOPIC", "torture")

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("n", BigInteger, Identity(), primary_key=True),
    Column("handler", Text, nullable=False),
    Column("message_id", Uuid, nullable=False),
    Column("client", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("part", Integer, nullable=False),
    Column("key", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("process", Integer, nullable=False),
)
"""It has no unique constraint on purpose: what is written twice must be seen twice."""


class Entered(Event, name="torture.entered", topic=TOPIC):
    """`number` is its place in its key, from 1, as the aggregate has counted it."""

    client: int
    seq: int
    part: int
    key: int
    number: int


async def write_effect(session: AsyncSession, handler: str, message_id: UUID, event: Entered) -> None:
    row = {**event.model_dump(), "handler": handler, "message_id": message_id, "process": os.getpid()}
    await session.execute(insert(effects).values(**row))
