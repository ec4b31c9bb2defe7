"""Messages of one key are in the order of their commits, whoever writes them and however slow he is."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from outbox_support import Place, Placed, make, running
from outbox_support import rows as rows_of
from sqlalchemy import Column, Integer, MetaData, String, Table, event, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from cqrs_fastapi import CQRS
from cqrs_fastapi.eventstore.key_locks import ALL_KEYS, MANY, key_locks_of
from cqrs_fastapi.eventstore.records import AppendUnit
from cqrs_fastapi.identity import Uuid7Factory

pytestmark = pytest.mark.anyio

WRITERS, EACH = 8, 12
COUNTERS = Table("counters", MetaData(), Column("key", String, primary_key=True), Column("n", Integer))


@pytest.fixture
async def cqrs(postgres_url: str) -> AsyncIterator[CQRS]:
    async with running(make(postgres_url)) as cqrs:
        yield cqrs


async def seen_by_a_reader(cqrs: CQRS, stop: asyncio.Event) -> list[tuple[str, bytes]]:
    """What a relay would send, in its order: it looks all the time, and takes what is committed by position."""
    seen: dict[int, tuple[str, bytes]] = {}
    order: list[tuple[str, bytes]] = []
    outbox = cqrs.database.tables.outbox
    query = select(outbox.c.position, outbox.c.key, outbox.c.payload).order_by(outbox.c.position)
    while True:
        last = stop.is_set()
        for position, key, payload in await cqrs.database.read(lambda c: c.execute(query).all()):
            if position not in seen:
                seen[position] = (key, payload)
                order.append((key, payload))
        if last:
            return order
        await asyncio.sleep(0)


async def test_concurrent_writers_of_a_key_are_read_in_the_order_in_which_they_committed(cqrs: CQRS) -> None:
    """Each message carries a number that its writer draws just before the commit, when its turn has come; a writer
    lingers between its insert and its commit, so that without turns a later one would overtake it.
    """
    engine = create_async_engine(cqrs.settings.database_url, pool_size=WRITERS)
    stop = asyncio.Event()
    reader = asyncio.create_task(seen_by_a_reader(cqrs, stop))
    committed: dict[str, list[bytes]] = defaultdict(list)

    async def writer(number: int) -> None:
        for turn in range(EACH):
            key = f"key-{(number + turn) % 2}"
            async with AsyncSession(engine) as session:
                payload = f"{number}.{turn}".encode()
                await cqrs.outbox(session).add_raw("raw", payload, key=key)
                linger(session, 0.001 * ((number * 7 + turn) % 5))
                event.listen(session.sync_session, "after_commit", lambda _, k=key, p=payload: committed[k].append(p))
                await session.commit()

    await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    stop.set()
    read: dict[str, list[bytes]] = defaultdict(list)
    for key, payload in await reader:
        read[key].append(payload)
    stored: dict[str, list[bytes]] = defaultdict(list)
    for row in await rows_of(cqrs):
        stored[row.key].append(row.payload)
    await engine.dispose()

    assert sum(map(len, read.values())) == WRITERS * EACH
    assert read == stored


def linger(session: AsyncSession, seconds: float) -> None:
    """Keep the transaction open for a while between what the outbox inserts and the commit."""

    def wait(sync_session: Any) -> None:
        sync_session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})

    event.listen(session.sync_session, "before_commit", wait)


async def test_a_later_writer_of_a_key_waits_for_the_earlier_one_and_other_keys_do_not(cqrs: CQRS) -> None:
    database = cqrs.database
    async with database.session() as first, database.session() as second, database.session() as third:
        inserted, let_go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(sync_session: Any) -> None:
            from sqlalchemy.util import await_only  # noqa: PLC0415  # only this hook waits in the middle of a commit

            loop.call_soon(inserted.set)
            await_only(let_go.wait())

        await cqrs.outbox(first).add_raw("raw", b"first", key="k")
        event.listen(first.sync_session, "before_commit", hold)
        committing = asyncio.create_task(first.commit())
        await inserted.wait()

        await cqrs.outbox(second).add_raw("raw", b"second", key="k")
        waiting = asyncio.create_task(second.commit())
        await cqrs.outbox(third).add_raw("raw", b"third", key="another")
        await third.commit()
        assert [row.payload for row in await rows_of(cqrs)] == [b"third"]
        assert not waiting.done()
        let_go.set()
        await asyncio.gather(committing, waiting)

    assert [row.payload for row in await rows_of(cqrs) if row.key == "k"] == [b"first", b"second"]


async def test_a_message_that_is_not_ordered_waits_for_nobody(cqrs: CQRS) -> None:
    database = cqrs.database
    async with database.session() as first, database.session() as second, asyncio.timeout(10):
        inserted, let_go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(sync_session: Any) -> None:
            from sqlalchemy.util import await_only  # noqa: PLC0415  # as above

            loop.call_soon(inserted.set)
            await_only(let_go.wait())

        await cqrs.outbox(first).add_raw("raw", b"first", key="k")
        event.listen(first.sync_session, "before_commit", hold)
        committing = asyncio.create_task(first.commit())
        await inserted.wait()
        await cqrs.outbox(second).add_raw("raw", b"second", key="k", ordered=False)
        await second.commit()
        assert [row.payload for row in await rows_of(cqrs)] == [b"second"]
        let_go.set()
        await committing


async def test_routed_events_of_one_key_and_many_streams_are_in_the_order_of_their_numbers(cqrs: CQRS) -> None:
    """Commands for different orders of one customer share a key; a counter that they lock gives them an order."""
    ids = Uuid7Factory()
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(COUNTERS.metadata.create_all)
        await connection.execute(insert(COUNTERS).values(key="c", n=0))

    async def place(_: int) -> None:
        async with cqrs.database.session() as session:
            counter = update(COUNTERS).where(COUNTERS.c.key == "c").values(n=COUNTERS.c.n + 1).returning(COUNTERS.c.n)
            number = (await session.execute(counter)).scalar_one()
            async with cqrs.scope(session=session) as scope:
                await scope.send(Place(order_id=ids(), customer="c", number=number))
            await session.commit()

    await asyncio.gather(*(place(n) for n in range(24)))
    numbers = [Placed.model_validate_json(row.payload).number for row in await rows_of(cqrs)]
    assert numbers == list(range(1, 25))


async def test_commands_that_share_a_key_share_a_statement_and_each_has_its_own_outcome(cqrs: CQRS) -> None:
    ids = Uuid7Factory()
    async with asyncio.timeout(30):
        await asyncio.gather(
            *(cqrs.mediator.send(Place(order_id=ids(), customer=f"c-{n % 3}", number=n)) for n in range(60))
        )
    assert len(await rows_of(cqrs)) == 60


async def test_an_append_with_a_key_that_somebody_holds_does_not_hold_up_the_others(cqrs: CQRS) -> None:
    """Who holds it here is a session in the middle of its commit; the appender puts that one command off."""
    ids = Uuid7Factory()
    async with cqrs.database.session() as session, asyncio.timeout(20):
        inserted, let_go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(sync_session: Any) -> None:
            from sqlalchemy.util import await_only  # noqa: PLC0415  # as above

            loop.call_soon(inserted.set)
            await_only(let_go.wait())

        await cqrs.outbox(session).add_raw("orders", b"{}", key="held")
        event.listen(session.sync_session, "before_commit", hold)
        committing = asyncio.create_task(session.commit())
        await inserted.wait()
        late = asyncio.create_task(cqrs.mediator.send(Place(order_id=ids(), customer="held")))
        await asyncio.gather(
            *(cqrs.mediator.send(Place(order_id=ids(), customer=f"free-{n}", number=n)) for n in range(10))
        )
        assert not late.done()
        let_go.set()
        await asyncio.gather(committing, late)
    assert [row.key for row in await rows_of(cqrs)].count("held") == 2


async def test_a_transaction_with_very_many_keys_takes_one_lock_that_keeps_out_all_others(cqrs: CQRS) -> None:
    async with cqrs.database.session() as session:
        for number in range(MANY + 1):
            await cqrs.outbox(session).add_raw("raw", b"", key=f"k-{number}")
        counted = []

        def count(sync_session: Any) -> None:
            query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            counted.append(sync_session.execute(query).scalar_one())

        event.listen(session.sync_session, "before_commit", count)
        await session.commit()
    assert counted == [1]
    assert len(await rows_of(cqrs)) == MANY + 1


def test_locks_are_sorted_and_each_is_taken_once_for_a_unit() -> None:
    def row(key: str | None, *, ordered: bool = True) -> dict[str, Any]:
        return {"topic": "t", "key": key, "ordered": ordered}

    def unit(*rows: dict[str, Any]) -> AppendUnit:
        return AppendUnit("", datetime.now(UTC), outbox=rows)

    locks = key_locks_of([unit(row("b"), row("a"), row("a"), row(None)), unit(row("a"), row("c", ordered=False))])
    assert [lock for _, lock in locks] == sorted(lock for _, lock in locks)
    assert len(locks) == 3
    assert {member for member, _ in locks} == {1, 2}
    many = key_locks_of([unit(*(row(f"k-{n}") for n in range(MANY + 1)))])
    assert many == [(1, ALL_KEYS)]


async def test_delayed_messages_take_no_turn(cqrs: CQRS) -> None:
    async with cqrs.database.session() as session:
        await cqrs.outbox(session).add_raw("raw", b"", key="k", delay=timedelta(hours=1))
        counted = []

        def count(sync_session: Any) -> None:
            query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            counted.append(sync_session.execute(query).scalar_one())

        event.listen(session.sync_session, "before_commit", count)
        await session.commit()
    assert counted == [0]
