"""Reads all that was committed, by a plain scan that trusts no reader, and has it judged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, func, select

from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import Tables
from cqrs_fastapi.testing.torture.ledger import Ledger
from cqrs_fastapi.testing.torture.plan import SEATS
from cqrs_fastapi.testing.torture.verdict import Judge, Stored, Verdict

_PAGE = 5_000


async def judge(database: Database, ledger: Ledger) -> Verdict:
    """After all writers and the reader have ended."""
    judging, after = Judge(ledger), 0
    tables = database.tables
    while rows := await database.read(partial(_page, tables=tables, after=after)):
        for row in rows:
            judging.see(row)
        after = rows[-1].position
    for stream, version in await database.read(partial(_streams, tables=tables)):
        judging.see_stream(stream, version)
    return judging.verdict(overbooked=await database.read(partial(_overbooked, tables=tables)))


def _page(connection: Connection, tables: Tables, after: int) -> Sequence[Stored]:
    events = tables.events
    query = select(events.c.position, events.c.message_id, events.c.stream, events.c.version, events.c.type)
    query = query.where(events.c.position > after).order_by(events.c.position).limit(_PAGE)
    return [Stored(*row) for row in connection.execute(query)]


def _streams(connection: Connection, tables: Tables) -> list[tuple[str, int]]:
    return [
        (row.stream, row.version)
        for row in connection.execute(select(tables.streams.c.stream, tables.streams.c.version))
    ]


def _overbooked(connection: Connection, tables: Tables) -> int:
    tags = tables.event_tags
    full = select(tags.c.tag).group_by(tags.c.tag).having(func.count() > SEATS).subquery()
    return int(connection.execute(select(func.count()).select_from(full)).scalar_one())
