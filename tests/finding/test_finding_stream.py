"""Streams of found states: in order, of one state of the database, and nothing is left open behind them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from catalogue import CATEGORY, NOW, TENANT, Product, opened, rendered
from sqlalchemy import delete, event, text
from sqlalchemy.pool import QueuePool

from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.search import Search
from cqrs_fastapi.domain.finding.states import write_states
from cqrs_fastapi.domain.finding.streaming import AT_ONCE, stream_states
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

ALL = Search(TENANT, CATEGORY, ordering=Product.count.ascending())
MANY = 3 * AT_ONCE + 1


def numbered(number: int) -> RootState:
    return RootState(UUID(int=number), 1, rendered({"größe": number}), NOW, NOW)


@pytest.fixture
async def filled(database: Database) -> Database:
    states = [numbered(number) for number in range(MANY)]
    await database.write(partial(write_states, tables=database.tables, tenant=TENANT, category=CATEGORY, states=states))
    return database


async def clear(database: Database) -> None:
    await database.write(lambda connection: connection.execute(delete(database.tables.root_states)).rowcount)


def connections_out(database: Database) -> int:
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


async def numbers(database: Database, search: Search, own: Any = ()) -> list[int]:
    return [state.id.int async for state in stream_states(database, search, own)]


async def test_everything_is_found_in_order(filled: Database) -> None:
    assert await numbers(filled, ALL) == list(range(MANY))
    assert connections_out(filled) == 0


async def test_no_more_than_the_limit_is_found(filled: Database) -> None:
    limited = Search(TENANT, CATEGORY, Product.count > 5, Product.count.descending(), limit=3)
    assert await numbers(filled, limited) == [MANY - 1, MANY - 2, MANY - 3]


async def test_what_the_unit_of_work_holds_is_put_in(filled: Database) -> None:
    def moved(number: int, to: int) -> RootState:
        return numbered(number)._replace(state=rendered({"größe": to}))

    own = [moved(2, 4), moved(3, 9_999), moved(70_000, -1), numbered(5)._replace(deleted_at=NOW)]
    search = Search(TENANT, CATEGORY, ordering=Product.count.ascending(), but=frozenset(state.id for state in own))
    expected = [70_000, 0, 1, 2, 4, *range(6, MANY), 3]
    assert await numbers(filled, search, own) == expected
    for limit in (1, 4, 5, MANY - 1, MANY, MANY + 1):
        limited = Search(TENANT, CATEGORY, ordering=search.ordering, but=search.but, limit=limit)
        assert await numbers(filled, limited, own) == expected[:limit]


async def test_a_stream_is_of_one_state_of_the_database(filled: Database) -> None:
    seen = 0
    async with aclosing(stream_states(filled, ALL)) as stream:
        async for _ in stream:
            if not seen:
                await clear(filled)
            seen += 1
    assert seen == MANY
    assert await numbers(filled, ALL) == []


async def test_the_server_keeps_what_was_not_asked_for_yet(filled: Database) -> None:
    on_the_server: list[bool] = []
    engine = filled.engine.sync_engine

    def see(_: Any, __: Any, statement: str, ___: Any, context: Any, ____: Any) -> None:
        if "root_states" in statement:
            on_the_server.append(context._is_server_side)

    event.listen(engine, "before_cursor_execute", see)
    assert len(await numbers(filled, ALL)) == MANY
    assert on_the_server == [True]


async def test_a_stream_that_is_left_early_gives_its_connection_back(filled: Database) -> None:
    async with aclosing(stream_states(filled, ALL)) as stream:
        async for _ in stream:
            assert connections_out(filled) == 1
            break
    assert connections_out(filled) == 0
    await clear(filled)
    assert await numbers(filled, ALL) == []


async def test_a_stream_whose_reader_is_cancelled_gives_its_connection_back(filled: Database) -> None:
    for turns in range(12):
        seen: list[RootState] = []

        async def read(into: list[RootState] = seen) -> None:
            async for state in stream_states(filled, ALL):
                into.append(state)  # noqa: PERF401  # it is looked at meanwhile

        reading = asyncio.create_task(read())
        while not seen:
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        async with asyncio.timeout(30):
            while connections_out(filled):
                await asyncio.sleep(0.01)
    assert await numbers(filled, ALL) == list(range(MANY))


async def test_a_server_that_goes_away_is_unavailable(postgres_url: str) -> None:
    database = await opened(postgres_url)
    try:
        states = [numbered(number) for number in range(20_000)]
        await database.write(
            partial(write_states, tables=database.tables, tenant=TENANT, category=CATEGORY, states=states)
        )
        with pytest.raises(UnavailableError):
            async with aclosing(stream_states(database, ALL)) as stream:
                async for _ in stream:
                    kill = text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                    await database.read(lambda connection, kill=kill: connection.execute(kill).all())
        assert connections_out(database) == 0
    finally:
        await database.close()
