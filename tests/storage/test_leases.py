from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text, update

from cqrs_fastapi.storage import leases
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.leases import Lease, LeaseLostError

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)
ANN, BEN = uuid4(), uuid4()


async def acquire(database: Database, owner: UUID, duration: timedelta = MINUTE) -> Lease | None:
    return await database.write(
        lambda connection: leases.acquire(connection, database.tables, "relay", owner, duration)
    )


async def held(database: Database, owner: UUID) -> Lease:
    lease = await acquire(database, owner)
    assert lease is not None
    return lease


async def renew(database: Database, lease: Lease) -> None:
    await database.write(lambda connection: leases.renew(connection, database.tables, lease))


async def release(database: Database, lease: Lease) -> None:
    await database.write(lambda connection: leases.release(connection, database.tables, lease))


async def fenced(database: Database, lease: Lease) -> None:
    await database.write(lambda connection: leases.fenced(connection, database.tables, lease))


async def expire(database: Database) -> None:
    """Moves the end of the lease into the past, as if its time had gone by."""

    def work(connection: Connection) -> None:
        past = database_now(connection, after=-MINUTE)
        connection.execute(update(database.tables.leases).values(expires_at=past))

    await database.write(work)


async def test_a_free_lease_is_acquired_and_nobody_else_gets_it(database: Database) -> None:
    lease = await held(database, ANN)
    assert (lease.owner, lease.epoch) == (ANN, 1)
    assert await acquire(database, BEN) is None
    await fenced(database, lease)


async def test_an_expired_lease_is_taken_over_and_its_stale_owner_is_refused(database: Database) -> None:
    stale = await held(database, ANN)
    await expire(database)
    taken = await held(database, BEN)
    assert taken.epoch > stale.epoch
    for attempt in (fenced, renew):
        with pytest.raises(LeaseLostError, match="'relay' is no longer held at epoch 1"):
            await attempt(database, stale)
    await fenced(database, taken)


async def test_an_earlier_holding_of_the_same_owner_is_stale_too(database: Database) -> None:
    earlier, later = await held(database, ANN), await held(database, ANN)
    assert later.epoch == earlier.epoch + 1
    with pytest.raises(LeaseLostError):
        await fenced(database, earlier)


async def test_a_renewed_lease_is_not_taken_over(database: Database) -> None:
    lease = await held(database, ANN)
    await expire(database)
    await renew(database, lease)
    assert await acquire(database, BEN) is None


async def test_a_released_lease_is_free_at_once_and_its_epoch_goes_on_growing(database: Database) -> None:
    lease = await held(database, ANN)
    await release(database, lease)
    assert (await held(database, BEN)).epoch == lease.epoch + 1


async def test_releasing_a_lost_lease_does_not_take_it_from_its_new_holder(database: Database) -> None:
    stale = await held(database, ANN)
    await expire(database)
    taken = await held(database, BEN)
    await release(database, stale)
    await fenced(database, taken)


async def test_a_lease_ends_by_the_clock_of_the_database(database: Database) -> None:
    short = await acquire(database, ANN, timedelta(milliseconds=20))
    assert short is not None
    while (taken := await acquire(database, BEN)) is None:  # nobody tells when it has ended
        await asyncio.sleep(0.01)
    assert taken.epoch == short.epoch + 1


async def test_only_one_of_many_gets_it(database: Database) -> None:
    outcomes = await asyncio.gather(*(acquire(database, uuid4()) for _ in range(8)))
    assert sum(outcome is not None for outcome in outcomes) == 1


async def test_a_takeover_waits_for_a_fenced_write_and_a_fence_after_it_is_refused(database: Database) -> None:
    lease = await held(database, ANN)
    await expire(database)
    async with database.session() as session:
        await database.run(session, lambda connection: leases.fenced(connection, database.tables, lease))
        takeover = asyncio.create_task(acquire(database, BEN))
        await asyncio.sleep(0.1)
        assert not takeover.done()
        await session.commit()
    assert await takeover is not None
    with pytest.raises(LeaseLostError):
        await fenced(database, lease)


async def test_a_stopped_holder_cannot_block_its_successor_longer_than_the_lease(database: Database) -> None:
    if database.dialect == "sqlite":
        return  # a stopped process there holds its file lock until it ends
    lease = await acquire(database, ANN, timedelta(milliseconds=1500))
    assert lease is not None

    def timeout(connection: Connection) -> str:
        leases.fenced(connection, database.tables, lease)
        return str(connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one())

    assert await database.write(timeout) == "1500ms"
    shown = text("SHOW idle_in_transaction_session_timeout")
    assert await database.write(lambda connection: connection.execute(shown).scalar_one()) == "0"
