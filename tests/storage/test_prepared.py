"""Statements that are given to the driver as they are: the same rows, the same errors, and a pool that stays whole."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from sqlalchemy import BigInteger, Connection, Text, bindparam, cast, column, func, select, table
from sqlalchemy.exc import DBAPIError

from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.prepared import prepared
from tools.servers.sql import ask

pytestmark = pytest.mark.anyio

DOUBLE = prepared(select(bindparam("number", type_=BigInteger) * 2))
GONE = prepared(select(column("id")).select_from(table("not_there")))
PROCESS = prepared(select(func.pg_backend_pid()))
SLOW = prepared(select(cast(func.pg_sleep(bindparam("seconds")), Text)))

TERMINATE_OTHERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def double(connection: Connection, number: int) -> int:
    return int(DOUBLE.scalar(connection, {"number": number}))


def process(connection: Connection) -> int:
    return int(PROCESS.scalar(connection, {}))


async def test_a_read_gives_the_same_alone_and_in_a_transaction(database: Database) -> None:
    assert await database.read(partial(double, number=21)) == 42
    assert await database.write(partial(double, number=4)) == 8


async def test_an_error_of_the_statement_is_told_as_any_other(database: Database) -> None:
    with pytest.raises(Exception, match="not_there") as caught:
        await database.read(lambda connection: GONE.rows(connection, {}))
    if database.dialect == "postgresql":
        assert isinstance(caught.value, DBAPIError)


async def test_after_a_restart_the_pool_forgets_all_its_connections_at_the_first_read(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url))
    before = set(await asyncio.gather(*(database.read(process) for _ in range(5))))
    assert len(before) > 1
    ask(postgres_url, TERMINATE_OTHERS)
    after = {await database.read(process) for _ in range(5)}
    assert not before & after
    await database.close()


async def test_a_read_that_is_cancelled_leaves_its_connection_to_nobody(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url, pool_size=1))
    held = await database.read(process)
    reading = asyncio.ensure_future(database.read(lambda connection: SLOW.rows(connection, {"seconds": 30})))
    await asyncio.sleep(0.2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await database.read(process) != held
    assert await database.read(partial(double, number=3)) == 6
    await database.close()
