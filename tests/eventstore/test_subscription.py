"""The reader of the store: nothing is skipped, nothing is inverted, nobody foreign holds it up; on both databases."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from cqrs_fastapi.errors import HistoryChangedError, UnavailableError
from cqrs_fastapi.eventstore import checkpoints, subscription
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.checkpoints import Checkpoint, CheckpointMovedError
from cqrs_fastapi.eventstore.expected_version import ANY
from cqrs_fastapi.eventstore.horizon import Horizon, floor_of, holders, read_horizon
from cqrs_fastapi.eventstore.records import AppendUnit, NewEvent, StreamAppend
from cqrs_fastapi.eventstore.subscription import (
    Batch,
    HistoryMovedError,
    Selection,
    SharedHorizon,
    Subscription,
    place_of,
)
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from tools.servers import postgres as postgres_server_of
from tools.servers.errors import ServerUnavailableError
from tools.servers.processes import Launch
from tools.servers.sql import create_database
from tools.servers.state import ELSEWHERE

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POLL = timedelta(milliseconds=20)
BEGINNING = Horizon(0, 0)


async def opened(url: str, **settings: Any) -> Database:
    database = Database(Settings(database_url=url, **settings))
    await database.open()
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(partial(upgrade, schema=settings.get("database_schema")))
    return database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await opened(database_url)
    yield database
    await database.close()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Database]:
    database = await opened(postgres_url)
    yield database
    await database.close()


def unit(stream: str, *types: str, tenant: str = "") -> AppendUnit:
    events = tuple(NewEvent(uuid4(), name, 1, "{}", "{}") for name in types)
    return AppendUnit(tenant, NOW, [StreamAppend(stream, stream.partition("-")[0], ANY, events)])


async def put(database: Database, stream: str, *types: str, tenant: str = "") -> None:
    await database.write(lambda c: append(c, database.tables, unit(stream, *types, tenant=tenant)))


async def horizon_of(database: Database) -> Horizon:
    return await database.read(lambda c: read_horizon(c, database.tables))


@asynccontextmanager
async def under_way(database: Database, stream: str, *types: str) -> AsyncIterator[AsyncConnection]:
    """A transaction that has appended and is not committed; rolled back unless the block commits it."""
    async with database.engine.connect() as connection:
        await connection.begin()
        await connection.run_sync(lambda c: append(c, database.tables, unit(stream, *types)))
        yield connection


async def subscribed(database: Database, selection: Selection | None = None, **options: Any) -> Subscription:
    server = (await horizon_of(database)).server
    shared = SharedHorizon(database, POLL)
    return Subscription(database, shared, selection or Selection(), replace(BEGINNING, server=server), **options)


def names(batch: Batch) -> list[str]:
    return [arrival.stored.type for arrival in batch.events]


async def read_to(reader: Subscription, position: int, seconds: float = 20) -> list[str]:
    """The types of all that comes until the reader has passed a position."""
    found: list[str] = []
    async with asyncio.timeout(seconds):
        while reader.through < position:
            found += names(await reader.next())
    return found


async def is_silent(reader: Subscription) -> bool:
    """Whether nothing comes while many looks are taken."""
    try:
        async with asyncio.timeout(0.3):
            await reader.next()
    except TimeoutError:
        return True
    return False


async def test_events_of_all_streams_come_in_the_order_of_their_positions(database: Database) -> None:
    await put(database, "a-1", "one", "two", tenant="red")
    await put(database, "b-1", "three")

    batch = await (await subscribed(database)).next()

    assert names(batch) == ["one", "two", "three"]
    assert [(one.category, one.tenant, one.stored.stream) for one in batch.events] == [
        ("a", "red", "a-1"),
        ("a", "red", "a-1"),
        ("b", "", "b-1"),
    ]
    assert batch.through == batch.highest == batch.events[-1].stored.position


async def test_a_position_that_is_committed_late_is_not_passed(postgres: Database) -> None:
    reader = await subscribed(postgres)
    async with under_way(postgres, "slow-1", "low") as slow:
        await put(postgres, "fast-1", "high")
        assert await is_silent(reader)
        horizon = await horizon_of(postgres)
        assert (horizon.safe, horizon.highest) == (0, 2)
        await slow.commit()

    assert await read_to(reader, 2) == ["low", "high"]


async def test_what_is_below_the_floor_is_read_while_an_append_is_under_way(postgres: Database) -> None:
    reader = await subscribed(postgres)
    await put(postgres, "fast-1", "before")
    async with under_way(postgres, "slow-1", "low"):
        await put(postgres, "fast-1", "after")
        assert await read_to(reader, 1) == ["before"]
        assert await is_silent(reader)

    assert await read_to(reader, 3) == ["after"]


async def test_events_that_are_rolled_back_are_passed(database: Database) -> None:
    reader = await subscribed(database)
    async with under_way(database, "slow-1", "never"):
        pass
    await put(database, "a-1", "kept")

    highest = (await horizon_of(database)).highest
    assert await read_to(reader, highest) == ["kept"]


async def test_a_writer_that_is_killed_frees_the_readers(postgres: Database) -> None:
    reader = await subscribed(postgres)
    async with postgres.engine.connect() as slow:
        await slow.run_sync(lambda c: append(c, postgres.tables, unit("slow-1", "never")))
        pid = (await slow.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await put(postgres, "fast-1", "kept")
        assert await is_silent(reader)
        await postgres.write(lambda c: c.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}))
        assert await read_to(reader, 2) == ["kept"]
        await slow.invalidate()


async def test_a_transaction_that_appends_nothing_holds_nobody_back(postgres: Database) -> None:
    reader = await subscribed(postgres)
    async with postgres.engine.connect() as foreign:
        await foreign.execute(text("CREATE TABLE foreign_table (n int)"))
        await foreign.execute(text("SELECT pg_current_xact_id()"))
        await foreign.execute(text("SELECT pg_advisory_xact_lock_shared(1, 1), pg_advisory_xact_lock(7)"))
        await put(postgres, "a-1", "one")
        assert await read_to(reader, 1) == ["one"]


async def test_the_store_of_another_schema_holds_nobody_back(postgres: Database, postgres_url: str) -> None:
    other = await opened(postgres_url, database_schema="other")
    try:
        reader = await subscribed(postgres)
        async with under_way(other, "slow-1", "low"):
            await put(postgres, "a-1", "one")
            assert await read_to(reader, 1) == ["one"]
            assert await postgres.read(lambda c: holders(c, postgres.tables)) == []
            assert len(await other.read(lambda c: holders(c, other.tables))) == 1
    finally:
        await other.close()


async def test_a_row_inserted_by_hand_takes_the_floor(postgres: Database) -> None:
    reader = await subscribed(postgres)
    row = {
        "message_id": uuid4(),
        "stream": "hand-1",
        "version": 1,
        "category": "hand",
        "type": "by hand",
        "schema_version": 1,
        "data": "{}",
        "meta": "{}",
        "recorded_at": NOW,
    }
    async with postgres.engine.connect() as slow:
        await slow.execute(insert(postgres.tables.events), row)
        await put(postgres, "fast-1", "high")
        assert await is_silent(reader)
        await slow.commit()

    assert await read_to(reader, 2) == ["by hand", "high"]


async def test_whoever_holds_the_readers_back_is_named(postgres: Database) -> None:
    await put(postgres, "a-1", "one")
    async with under_way(postgres, "slow-1", "low") as slow:
        pid = (await slow.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        [holder] = await postgres.read(lambda c: holders(c, postgres.tables))

    assert (holder.pid, holder.state, holder.position) == (pid, "idle in transaction", 1)
    assert "pg_backend_pid" in holder.query
    assert holder.seconds >= 0
    assert await postgres.read(lambda c: holders(c, postgres.tables)) == []


async def test_sqlite_has_one_writer_and_no_holders(sqlite_url: str) -> None:
    database = await opened(sqlite_url)
    try:
        await put(database, "a-1", "one", "two")
        async with under_way(database, "slow-1", "low"):
            assert await horizon_of(database) == Horizon(2, 2)
            assert await database.read(lambda c: holders(c, database.tables)) == []
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("floor", "highest"),
    [
        (0, 0),
        (0, 5),
        (7, 7),
        (2**31 - 1, 2**31 - 1),
        (2**31 - 1, 2**31),
        (2**31 - 1, 2**31 + 10),
        (2**31, 2**31 + 1),
        (5 * 2**31 - 3, 5 * 2**31 + 1_000_000),
        (2**62 + 1, 2**62 + 2**30),
    ],
)
def test_a_floor_is_found_again_by_its_31_bits(floor: int, highest: int) -> None:
    assert floor_of(floor & (2**31 - 1), highest) == floor


@pytest.mark.parametrize(("floor", "highest"), [(1, 0), (2**31, 2**31 - 1), (2**31 + 10_000, 2**31 - 1)])
def test_a_floor_above_what_was_read_holds_nothing_back(floor: int, highest: int) -> None:
    assert floor_of(floor & (2**31 - 1), highest) is None


async def test_a_floor_holds_where_the_positions_pass_2_to_the_31(postgres: Database) -> None:
    sequence = "SELECT setval(pg_get_serial_sequence('cqrs_events', 'position'), 2147483646)"
    await postgres.write(lambda c: c.execute(text(sequence)).scalar())
    await put(postgres, "fast-1", "a")
    async with under_way(postgres, "slow-1", "b"):
        await put(postgres, "fast-1", "c", "d", "e")
        assert await horizon_of(postgres) == replace(await horizon_of(postgres), safe=2147483647, highest=2147483651)


async def test_only_what_was_selected_comes(database: Database) -> None:
    await put(database, "a-1", "one", "two")
    await put(database, "b-1", "one", "three")

    by_type = await subscribed(database, Selection(types=frozenset({"one", "unknown"})))
    by_category = await subscribed(database, Selection(categories=frozenset({"b"})))
    by_either = await subscribed(database, Selection(frozenset({"two"}), frozenset({"b"})))

    assert await read_to(by_type, 4) == ["one", "one"]
    assert await read_to(by_category, 4) == ["one", "three"]
    assert await read_to(by_either, 4) == ["two", "one", "three"]


async def test_a_reader_passes_what_it_did_not_select(database: Database) -> None:
    reader = await subscribed(database, Selection(types=frozenset({"wanted"})))
    await put(database, "a-1", *["other"] * 5)

    assert await reader.next() == Batch([], 5, 5)


async def test_archived_events_are_left_out(database: Database) -> None:
    await put(database, "a-1", "old", "new")
    events = database.tables.events
    await database.write(lambda c: c.execute(update(events).where(events.c.type == "old").values(archived=True)))

    assert await read_to(await subscribed(database), 2) == ["new"]


async def test_pages_are_bounded_and_none_is_lost_between_them(database: Database) -> None:
    await put(database, "a-1", *[str(number) for number in range(25)])
    reader = await subscribed(database, page=10)

    sizes = [len((await reader.next()).events) for _ in range(3)]
    assert sizes == [10, 10, 5]
    assert reader.through == 25


async def test_nothing_is_scanned_while_nothing_was_appended(database: Database, monkeypatch: Any) -> None:
    await put(database, "a-1", "one")
    reader = await subscribed(database)
    await reader.next()

    def scan(*_: object, **__: object) -> None:
        raise AssertionError("the events were read although the sequence has not moved")

    monkeypatch.setattr(subscription, "_read_page", scan)
    assert await is_silent(reader)


async def test_one_look_serves_all_subscriptions(database: Database, monkeypatch: Any) -> None:
    looks = 0

    def counted(connection: Connection, tables: Any) -> Horizon:
        nonlocal looks
        looks += 1
        return read_horizon(connection, tables)

    monkeypatch.setattr(subscription, "read_horizon", counted)
    shared = SharedHorizon(database, timedelta(hours=1))
    start = replace(BEGINNING, server=(await horizon_of(database)).server)
    readers = [Subscription(database, shared, Selection(), start) for _ in range(20)]
    await put(database, "a-1", "one")

    assert {len((await reader.next()).events) for reader in readers} == {1}
    assert looks == 1
    waiting = [asyncio.create_task(reader.next()) for reader in readers]
    await asyncio.sleep(0.05)
    await put(database, "a-1", "two")
    shared.wake()
    assert [names(await task) for task in waiting] == [["two"]] * 20
    assert looks == 2


async def test_a_wake_up_finds_what_was_committed_before_it(database: Database) -> None:
    shared = SharedHorizon(database, timedelta(hours=1))
    reader = Subscription(database, shared, Selection(), await horizon_of(database))
    waiting = asyncio.create_task(reader.next())
    for number in range(20):
        await put(database, "a-1", str(number))
        shared.wake()
        async with asyncio.timeout(10):
            assert names(await waiting) == [str(number)]
        waiting = asyncio.create_task(reader.next())
    waiting.cancel()


async def test_a_waiting_reader_that_is_cancelled_leaves_the_others_to_wait(database: Database) -> None:
    shared = SharedHorizon(database, POLL)
    start = await horizon_of(database)
    first, second = (Subscription(database, shared, Selection(), start) for _ in range(2))
    leaving, staying = asyncio.create_task(first.next()), asyncio.create_task(second.next())
    await asyncio.sleep(0.05)
    leaving.cancel()
    await put(database, "a-1", "one")

    async with asyncio.timeout(10):
        assert names(await staying) == ["one"]


async def test_many_writers_lose_and_invert_nothing(database: Database) -> None:
    """Pauses between drawing positions and the commit, rollbacks, several events in one append."""
    reader, kept = await subscribed(database), {}

    async def write(number: int) -> None:
        for turn in range(6):
            stream = f"s{number}-{turn % 2}"
            appended = unit(stream, *["x"] * (1 + turn % 3))
            async with database.engine.connect() as connection:
                await connection.begin()
                await connection.run_sync(lambda c, given=appended: append(c, database.tables, given))
                if database.dialect == "postgresql":
                    await asyncio.sleep(0.001 * ((number * 7 + turn * 3) % 11))
                if (number + turn) % 5:
                    await connection.commit()
                    kept.update((event.message_id, stream) for event in appended.appends[0].events)

    seen: list[Any] = []

    async def read() -> None:
        async for batch in reader:
            seen.extend(batch.events)

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write(number) for number in range(8)))
    highest = (await horizon_of(database)).highest
    async with asyncio.timeout(20):
        while reader.through < highest:
            await asyncio.sleep(0.01)
    reading.cancel()
    positions = [one.stored.position for one in seen]
    assert {one.stored.message_id for one in seen} == set(kept)
    assert positions == sorted(set(positions))
    by_stream: dict[str, list[int]] = {}
    for one in seen:
        by_stream.setdefault(one.stored.stream, []).append(one.stored.version)
    assert all(versions == list(range(1, len(versions) + 1)) for versions in by_stream.values())


# Checkpoints.


async def started(database: Database, name: str = "r", *, from_start: bool = False) -> Checkpoint:
    horizon = await horizon_of(database)
    work = partial(
        checkpoints.start, tables=database.tables, name=name, horizon=horizon, from_start=from_start, now=NOW
    )
    await database.write(work)
    return await stored(database, name)


async def stored(database: Database, name: str = "r") -> Checkpoint:
    found = await database.read(lambda c: checkpoints.read_checkpoint(c, database.tables, name))
    assert found is not None
    return found


async def move(database: Database, before: Checkpoint, after: Checkpoint) -> None:
    await database.write(lambda c: checkpoints.advance(c, database.tables, before, after, now=NOW))


async def verify(database: Database, checkpoint: Checkpoint) -> None:
    horizon = await horizon_of(database)
    await database.read(lambda c: checkpoints.verify(c, database.tables, checkpoint, horizon))


async def last_id(database: Database, position: int) -> UUID | None:
    return await database.read(lambda c: checkpoints.last_event(c, database.tables, position))


async def test_a_new_reader_starts_at_the_present_or_at_the_start_and_that_is_recorded_once(database: Database) -> None:
    await put(database, "a-1", "one", "two")
    assert await started(database) == Checkpoint("r", 2, await last_id(database, 2), 2)
    assert await started(database, "all", from_start=True) == Checkpoint("all", 0, None, 2)
    await put(database, "a-1", "three")
    assert (await started(database)).position == 2
    assert (await started(database, from_start=True)).position == 2


async def test_a_new_reader_does_not_pass_what_is_under_way_when_it_starts(postgres: Database) -> None:
    async with under_way(postgres, "slow-1", "low") as slow:
        await put(postgres, "fast-1", "high")
        checkpoint = await started(postgres)
        await slow.commit()
    horizon = await horizon_of(postgres)
    reader = Subscription(postgres, SharedHorizon(postgres, POLL), Selection(), place_of(checkpoint, horizon))

    assert await read_to(reader, 2) == ["low", "high"]


async def test_a_checkpoint_is_moved_by_whoever_knows_where_it_is(database: Database) -> None:
    await put(database, "a-1", "one", "two")
    before = await started(database, from_start=True)
    after = Checkpoint("r", 1, await last_id(database, 1), 2)
    await move(database, before, after)
    assert await stored(database) == after

    with pytest.raises(CheckpointMovedError):
        await move(database, before, replace(after, position=2))
    assert await stored(database) == after
    with pytest.raises(ValueError, match="cannot go back from 1 to 0"):
        await move(database, after, before)


async def test_the_highest_position_seen_never_falls(database: Database) -> None:
    before = await started(database)
    await move(database, before, replace(before, highest=9))
    await move(database, await stored(database), replace(before, highest=3))

    assert (await stored(database)).highest == 9


async def test_a_store_that_holds_what_was_passed_is_accepted(database: Database) -> None:
    await put(database, "a-1", "one", "two")
    checkpoint = await started(database)
    await verify(database, checkpoint)
    await put(database, "a-1", "three")
    await verify(database, checkpoint)


async def test_a_store_without_the_last_events_is_refused(database: Database) -> None:
    await put(database, "a-1", "one", "two")
    checkpoint = await started(database)
    events = database.tables.events
    await database.write(lambda c: c.execute(delete(events).where(events.c.position == 2)))

    with pytest.raises(HistoryChangedError, match="the last event up to position 2 was") as error:
        await verify(database, checkpoint)
    assert "delete its row from cqrs_checkpoints" in str(error.value)


async def test_a_store_with_other_events_at_these_positions_is_refused(database: Database) -> None:
    await put(database, "a-1", "one", "two")
    checkpoint = await started(database)
    events = database.tables.events
    await database.write(lambda c: c.execute(update(events).where(events.c.position == 2).values(message_id=uuid4())))

    with pytest.raises(HistoryChangedError):
        await verify(database, checkpoint)


async def test_a_checkpoint_beyond_everything_is_refused(database: Database) -> None:
    await put(database, "a-1", "one")
    checkpoint = await started(database)

    with pytest.raises(HistoryChangedError, match="no position above 1 was ever drawn"):
        await verify(database, replace(checkpoint, position=7))


async def test_a_sequence_that_was_set_back_is_refused(postgres: Database) -> None:
    await put(postgres, "a-1", "one", "two", "three")
    checkpoint = replace(await started(postgres), position=1, message_id=await last_id(postgres, 1))
    sequence = "SELECT setval(pg_get_serial_sequence('cqrs_events', 'position'), 2)"
    await postgres.write(lambda c: c.execute(text(sequence)).scalar())

    with pytest.raises(HistoryChangedError, match="the last position drawn was 3 once and is 2 now"):
        await verify(postgres, checkpoint)


async def test_a_running_reader_notices_that_the_sequence_was_set_back(postgres: Database) -> None:
    await put(postgres, "a-1", "one", "two", "three")
    reader = await subscribed(postgres)
    await reader.next()
    sequence = "SELECT setval(pg_get_serial_sequence('cqrs_events', 'position'), 2)"
    await postgres.write(lambda c: c.execute(text(sequence)).scalar())

    with pytest.raises(HistoryMovedError):
        async with asyncio.timeout(10):
            await reader.next()


# What needs a server of its own.


@pytest.fixture
def private_server(tmp_path: Path) -> Iterator[tuple[str, Any, Launch]]:
    """The URL of an empty database, its server's process, and how to start that again: with prepared transactions."""
    try:
        made = postgres_server_of.start(tmp_path / "server", tmp_path / "log")
    except ServerUnavailableError as missing:
        pytest.skip(str(missing))
    made.process.stop(signal.SIGINT, grace=30)
    launch = replace(made.launch, argv=(*made.launch.argv, "-c", "max_prepared_transactions=4"))
    process = postgres_server_of.spawn_ready(launch, made.server.url)
    running = [process]
    yield create_database(made.server.url), running, launch
    running[-1].stop(signal.SIGINT, grace=30)
    elsewhere = tmp_path / "server" / ELSEWHERE  # where another user's data had to go
    if elsewhere.is_symlink():
        shutil.rmtree(elsewhere.readlink())


async def test_a_prepared_transaction_holds_the_readers_back_and_is_named(private_server: Any) -> None:
    url, _, _ = private_server
    database = await opened(url)
    try:
        reader = await subscribed(database)
        async with database.engine.connect() as slow:
            await slow.run_sync(lambda c: append(c, database.tables, unit("slow-1", "low")))
            await slow.execute(text("PREPARE TRANSACTION 'late'"))
            await slow.invalidate()
        await put(database, "fast-1", "high")
        assert await is_silent(reader)
        [holder] = await database.read(lambda c: holders(c, database.tables))
        assert (holder.pid, holder.state, holder.query) == (None, "prepared", "PREPARE TRANSACTION 'late'")

        autocommit = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            await connection.execute(text("COMMIT PREPARED 'late'"))
        assert await read_to(reader, 2) == ["low", "high"]
    finally:
        await database.close()


async def test_a_server_that_was_started_again_is_noticed_before_anything_is_passed(private_server: Any) -> None:
    url, running, launch = private_server
    database = await opened(url)
    try:
        await put(database, "a-1", "one")
        reader = await subscribed(database)
        await reader.next()
        checkpoint = await started(database)
        running[-1].stop(signal.SIGINT, grace=30)
        with pytest.raises(UnavailableError):
            await horizon_of(database)
        admin = url.rpartition("/")[0] + "/postgres"
        running.append(postgres_server_of.spawn_ready(launch, admin))
        with pytest.raises(HistoryMovedError):
            async with asyncio.timeout(20):
                await reader.next()
        await verify(database, checkpoint)
    finally:
        await database.close()
