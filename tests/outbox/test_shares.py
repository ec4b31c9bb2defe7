"""Several relays on one outbox: each has its share of the buckets, and none has another's."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from relay_support import Append, Running, ScriptedBroker, append, application, migrated, waiting
from sqlalchemy import Connection, insert, select, update

from cqrs_fastapi import CQRS
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.outbox.buckets import SHARES, buckets_of
from cqrs_fastapi.outbox.claiming import Passed, claim, settle
from cqrs_fastapi.outbox.shares import Shares
from cqrs_fastapi.storage.dialects import database_now

pytestmark = pytest.mark.anyio


async def owners(cqrs: CQRS) -> list[UUID]:
    """Of the shares that are held."""
    leases = cqrs.database.tables.leases
    query = select(leases.c.owner).where(leases.c.name.startswith("relay:"), leases.c.owner.is_not(None))
    return list(await cqrs.database.read(lambda connection: connection.execute(query).scalars().all()))


async def until_divided(cqrs: CQRS, *counts: int) -> None:
    async with asyncio.timeout(20):
        while sorted(Counter(await owners(cqrs)).values()) != sorted(counts):
            await asyncio.sleep(0.05)


async def test_relays_divide_the_shares_evenly_as_they_come_and_go(cqrs: CQRS) -> None:
    async with Running(cqrs):
        await until_divided(cqrs, 16)
        async with Running(cqrs):
            await until_divided(cqrs, 8, 8)
            async with Running(cqrs):
                await until_divided(cqrs, 5, 5, 6)
        await until_divided(cqrs, 16)
    assert await owners(cqrs) == []


async def test_four_relays_keep_the_order_of_each_key_while_they_come_and_go(postgres_url: str) -> None:
    broker = ScriptedBroker(pause=0.002)
    cqrs = application(postgres_url, broker, relay_batch=50)
    await migrated(cqrs)
    keys = [f"s-{number}" for number in range(40)]
    async with cqrs.running(workers=()), AsyncExitStack() as stack:
        first = [await stack.enter_async_context(Running(cqrs)) for _ in range(3)]
        for start in range(0, 150, 10):
            commands = [Append(stream=key, numbers=tuple(range(start, start + 10))) for key in keys]
            await asyncio.gather(*(cqrs.mediator.send(command) for command in commands))
            if start == 50:
                first[0].stop.set()
                await stack.enter_async_context(Running(cqrs))
            if start == 100:
                await stack.enter_async_context(Running(cqrs))
        await first[1].until_waiting(0, seconds=60)

    assert broker.numbers() == {key: list(range(150)) for key in keys}
    assert len(broker.sent) == 6_000


async def test_shares_of_a_relay_that_is_gone_are_taken_over_when_its_lease_ends(cqrs: CQRS) -> None:
    ghost = Shares(cqrs.database, "tests", uuid4())
    await ghost.join()
    await ghost.beat()
    assert len(ghost.held) == SHARES
    await append(cqrs, "s-a", 1)
    async with Running(cqrs) as relay:
        assert set(await owners(cqrs)) == {ghost.owner}
        await relay.until_waiting(0, seconds=10)


async def test_what_was_claimed_under_a_lease_that_another_has_taken_is_not_deleted(cqrs: CQRS) -> None:
    stale, heir = Shares(cqrs.database, "tests", uuid4()), Shares(cqrs.database, "tests", uuid4())
    await append(cqrs, "s-a", 1)
    await stale.join()
    await stale.beat()
    tables, everywhere = cqrs.database.tables, buckets_of(range(SHARES))
    (pending,) = await cqrs.database.read(lambda c: claim(c, tables, everywhere, 10, Passed()))
    held = stale.leases_of([pending.bucket])
    rows = [(pending.position, pending.bucket)]

    def expire(connection: Connection) -> None:
        past = database_now(connection, after=-timedelta(minutes=1))
        connection.execute(update(tables.leases).values(expires_at=past))
        connection.execute(update(tables.relay_members).values(expires_at=past))

    await cqrs.database.write(expire)
    await heir.beat()
    assert pending.bucket in buckets_of(heir.held)
    assert await cqrs.database.write_once(lambda c: settle(c, tables, held, rows)) == set()
    assert await waiting(cqrs) == 1
    held = heir.leases_of([pending.bucket])
    assert await cqrs.database.write_once(lambda c: settle(c, tables, held, rows)) == set(held)
    assert await waiting(cqrs) == 0


async def test_a_relay_that_nobody_has_heard_of_for_a_lease_begins_nothing(cqrs: CQRS) -> None:
    shares = Shares(cqrs.database, "tests", uuid4())
    await shares.join()
    assert shares.usable() == []
    await shares.beat()
    assert len(shares.usable()) == SHARES
    await asyncio.sleep(1.01)
    assert shares.usable() == []


async def test_a_relay_that_is_stopped_hands_over_before_its_lease_would_end(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    async with Running(cqrs) as first:
        await until_divided(cqrs, 16)
        async with Running(cqrs) as second:
            await until_divided(cqrs, 8, 8)
            first.stop.set()
            await first.task
            assert len(await owners(cqrs)) <= SHARES
            await until_divided(cqrs, 16)
            await append(cqrs, "s-a", 1)
            await second.until_waiting(0)
    assert broker.numbers() == {"s-a": [1]}


async def test_a_relay_that_is_stopping_takes_nothing_and_leaves_nothing_that_it_has_forgotten(cqrs: CQRS) -> None:
    """A beat may be cut off when the database has given it a share already."""
    ghost = Shares(cqrs.database, "tests", uuid4())
    await ghost.join()
    ghost.takes = False
    await ghost.beat()
    assert ghost.held == {}
    ghost.takes = True
    await ghost.beat()
    ghost.held.clear()
    await ghost.leave()
    assert await owners(cqrs) == []


async def test_another_number_of_buckets_refuses_to_start(database_url: str, broker: ScriptedBroker) -> None:
    cqrs = application(database_url, broker)
    await cqrs.database.open()
    await migrated(cqrs)
    facts = cqrs.database.tables.facts
    row = {"name": "outbox_buckets", "value": "32 by crc32"}
    await cqrs.database.write(lambda connection: connection.execute(insert(facts), row) and None)
    with pytest.raises(ConfigurationError, match=r"spread over 32 by crc32, and this code spreads it over 64 by crc32"):
        await cqrs.open()
    await cqrs.database.close()
