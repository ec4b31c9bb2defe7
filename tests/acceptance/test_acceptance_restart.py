"""A PostgreSQL server that is killed and started again under writers: nothing acknowledged is lost, nothing is left
unknown that can be known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM
from cqrs_fastapi.eventstore.records import AppendUnit, NewEvent, StreamAppend
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from tools.servers.fleet import Servers
from tools.servers.sql import create_database

pytestmark = pytest.mark.anyio

WRITERS = 32
SECONDS_AROUND = 2.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """A cluster of this test's own, since it is killed."""
    servers = Servers(folder=tmp_path / "servers")
    yield servers
    servers.stop("postgres")


async def test_a_server_killed_under_32_writers_keeps_every_acknowledged_event(servers: Servers) -> None:
    url = create_database(servers.start("postgres").url)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
    database = Database(Settings(database_url=url))
    appender, stop = Appender(database), asyncio.Event()
    acknowledged: list[UUID] = []

    async def write(number: int) -> None:
        """Every other append goes to a stream that all share, where only the message ids can tell what happened."""
        turn = 0
        while not stop.is_set():
            turn += 1
            event = NewEvent(uuid4(), "a", 1, "{}", "{}")
            stream, expected = ("shared-1", ANY) if turn % 2 else (f"own-{number}-{turn}", NO_STREAM)
            unit = AppendUnit("", datetime.now(UTC), [StreamAppend(stream, "cat", expected, (event,))])
            try:
                await appender.append(unit)
            except UnavailableError:
                await asyncio.sleep(0.05)  # nothing was written, so the next one is another event
            else:
                acknowledged.append(event.message_id)

    writers = [asyncio.create_task(write(number)) for number in range(WRITERS)]
    await asyncio.sleep(SECONDS_AROUND)
    before = len(acknowledged)
    await asyncio.to_thread(servers.restart, "postgres", crash=True)
    await asyncio.sleep(SECONDS_AROUND)
    stop.set()
    await asyncio.gather(*writers)  # an UnknownOutcomeError of one of them would be raised here

    events = database.tables.events
    rows = await database.read(
        lambda c: c.execute(events.select().where(events.c.stream == "shared-1").order_by(events.c.version)).all()
    )
    stored = await database.read(lambda c: [row.message_id for row in c.execute(events.select())])
    await database.close()
    assert 0 < before < len(acknowledged)
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    assert [row.version for row in rows] == list(range(1, len(rows) + 1))
    # Nothing is there that somebody was told had failed.
    assert set(stored) == set(acknowledged)
