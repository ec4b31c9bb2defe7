"""Reading a stream and reading all of them, on both databases."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial

import pytest
from event_stores import (
    NOW,
    REGISTRY,
    Access,
    Counted,
    OldRenamed,
    Renamed,
    Unregistered,
    all_of,
    opened,
    put,
    put_many,
    store,
    streams,
    unit,
    versions,
)
from sent_statements import sent_statements
from sqlalchemy import Connection

from cqrs_fastapi import EventStore
from cqrs_fastapi.errors import AheadOfStoreError, ConfigurationError, UnavailableError, UnknownMessageError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.horizon import Horizon
from cqrs_fastapi.eventstore.read import LAST, PAGE
from cqrs_fastapi.eventstore.read_all import AllRange, read_first, read_next
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


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


async def test_a_stream_is_read_forwards_and_backwards(database: Database) -> None:
    await put(database, "counter-1", Counted(n=1), Counted(n=2), Counted(n=3))

    forwards = await all_of(store(database).read("counter-1"))
    backwards = await all_of(store(database).read("counter-1", backwards=True))

    assert [(one.version, one.event) for one in forwards] == [(n, Counted(n=n)) for n in (1, 2, 3)]
    assert backwards == forwards[::-1]


@pytest.mark.parametrize(
    ("window", "forwards"),
    [
        ({"after": 2}, [3, 4, 5]),
        ({"until": 2}, [1, 2]),
        ({"after": 1, "until": 4}, [2, 3, 4]),
        ({"after": 4, "until": 2}, []),
        ({"until": 0}, []),
        ({"until": 99}, [1, 2, 3, 4, 5]),
        ({"after": 5}, []),
    ],
)
async def test_a_stream_is_read_from_and_to_a_version(
    database: Database, window: dict[str, int], forwards: list[int]
) -> None:
    await put(database, "counter-1", *(Counted(n=n) for n in range(1, 6)))

    assert await versions(store(database).read("counter-1", **window)) == forwards
    assert await versions(store(database).read("counter-1", **window, backwards=True)) == forwards[::-1]


async def test_no_more_than_the_limit_is_read(database: Database) -> None:
    await put(database, "counter-1", *(Counted(n=n) for n in range(1, 6)))

    assert await versions(store(database).read("counter-1", after=1, limit=2)) == [2, 3]
    assert await versions(store(database).read("counter-1", limit=2, backwards=True)) == [5, 4]
    assert await versions(store(database).read("counter-1", limit=0)) == []


async def test_a_stream_is_read_from_and_to_a_time(database: Database) -> None:
    for hours in range(4):
        await put(database, "counter-1", Counted(n=hours), at=NOW + hours * HOUR)
    read = partial(store(database).read, "counter-1")

    assert await versions(read(since=NOW + HOUR)) == [2, 3, 4]
    assert await versions(read(before=NOW + HOUR)) == [1]
    assert await versions(read(since=NOW + HOUR, before=NOW + 3 * HOUR, backwards=True)) == [3, 2]
    assert await versions(read(since=NOW + HOUR, after=2, limit=1)) == [3]
    assert await versions(read(since=NOW + 9 * HOUR)) == []


async def test_where_clocks_differ_the_order_is_that_of_the_versions(database: Database) -> None:
    for hours in (2, 0, 1):
        await put(database, "counter-1", Counted(n=hours), at=NOW + hours * HOUR)

    assert await versions(store(database).read("counter-1", since=NOW)) == [1, 2, 3]
    assert await versions(store(database).read("counter-1", since=NOW + HOUR)) == [1, 3]


async def test_a_stream_that_never_was_is_empty(database: Database) -> None:
    assert await versions(store(database).read("counter-1")) == []
    assert await versions(store(database).read("counter-1", backwards=True, until=7, since=NOW)) == []


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_stream_of_20_000_events_is_read_a_page_at_a_time(database: Database, backwards: bool) -> None:
    await put_many(database, "counter-1", 20_000)
    access = Access(database)
    seen: list[int] = []
    async for one in EventStore(access, database.tables, REGISTRY).read("counter-1", backwards=backwards):
        assert len(access.pages) == len(seen) // PAGE + 1
        assert one.event == Counted(n=one.version)
        seen.append(one.version)

    assert seen == (list(range(20_000, 0, -1)) if backwards else list(range(1, 20_001)))
    assert max(access.pages) == PAGE
    assert len(access.pages) == 20_000 // PAGE + (0 if backwards else 1)


async def test_each_page_of_a_stream_is_one_statement(postgres: Database) -> None:
    await put_many(postgres, "counter-1", 2 * PAGE + 1)
    await versions(store(postgres).read("counter-1"))  # the first use of a connection asks it this and that
    async with sent_statements(postgres.engine) as statements:
        await versions(store(postgres).read("counter-1"))
    assert len(statements) == 3


async def test_who_leaves_early_has_read_one_page_and_holds_no_connection(database_url: str) -> None:
    narrow = await opened(database_url, pool_size=1, pool_overflow=0, pool_timeout=timedelta(seconds=1))
    try:
        await put_many(narrow, "counter-1", 2 * PAGE)
        access = Access(narrow)
        async for one in EventStore(access, narrow.tables, REGISTRY).read("counter-1"):
            await narrow.ping()
            await put(narrow, "counter-1", Counted(n=0))
            if one.version == 3:
                break
        assert access.pages == [PAGE]
    finally:
        await narrow.close()


async def test_what_is_appended_while_a_stream_is_read_is_read_too(database: Database) -> None:
    await put_many(database, "counter-1", PAGE)
    read: list[int] = []
    async for one in store(database).read("counter-1"):
        if one.version == 1:
            await put(database, "counter-1", Counted(n=0))
        read.append(one.version)

    assert read == list(range(1, PAGE + 2))


async def test_all_streams_are_read_in_the_order_of_positions(database: Database) -> None:
    await put(database, "counter-1", Counted(n=1))
    await put(database, "person-1", Renamed())
    await put(database, "counter-1", Counted(n=2))

    found = await all_of(store(database).read_all())

    assert streams(found) == [("counter-1", 1), ("person-1", 1), ("counter-1", 2)]
    assert [one.position for one in found] == sorted(one.position for one in found)
    assert await all_of(store(database).read_all(after=found[0].position)) == found[1:]
    assert await all_of(store(database).read_all(after=found[0].position, limit=1)) == found[1:2]
    assert await all_of(store(database).read_all(limit=0)) == []
    assert await all_of(store(database).read_all(after=found[-1].position)) == []


async def test_all_streams_are_filtered_by_type_and_category(database: Database) -> None:
    await put(database, "counter-1", Counted(n=1), Renamed())
    await put(database, "person-1", Renamed())
    await put(database, "thing-1", Counted(n=2))
    everything = store(database)

    assert streams(await all_of(everything.read_all(types=[Counted]))) == [("counter-1", 1), ("thing-1", 1)]
    assert streams(await all_of(everything.read_all(categories=["person", "thing"]))) == [
        ("person-1", 1),
        ("thing-1", 1),
    ]
    assert streams(await all_of(everything.read_all(types=[Renamed], categories=["counter"]))) == [("counter-1", 2)]
    assert len(await all_of(everything.read_all(types=[Counted, Renamed]))) == 4
    assert await all_of(everything.read_all(categories=["nobody"])) == []


async def test_classes_that_share_a_name_are_told_apart(database: Database) -> None:
    await put(database, "person-1", *[Renamed(), OldRenamed()] * 3)

    assert await versions(store(database).read_all(types=[Renamed])) == [1, 3, 5]
    assert await versions(store(database).read_all(types=[OldRenamed], limit=2)) == [2, 4]


async def test_all_streams_are_read_a_page_at_a_time(database: Database) -> None:
    for number in range(3):
        await put_many(database, f"counter-{number}", PAGE - 100)
    access = Access(database)

    found = await all_of(EventStore(access, database.tables, REGISTRY).read_all())

    assert len(found) == 3 * (PAGE - 100)
    assert access.pages == [PAGE, PAGE, 200]


async def test_a_position_that_may_still_be_committed_is_not_passed(postgres: Database) -> None:
    async with postgres.engine.connect() as connection:
        await connection.begin()
        await connection.run_sync(lambda c: append(c, postgres.tables, unit("counter-late", Counted(n=1))))
        await put(postgres, "counter-early", Counted(n=2))
        assert await all_of(store(postgres).read_all()) == []
        await connection.commit()

    assert streams(await all_of(store(postgres).read_all())) == [("counter-late", 1), ("counter-early", 1)]


async def test_all_streams_are_not_read_in_a_transaction_that_keeps_an_old_state(postgres: Database) -> None:
    async with postgres.engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        with pytest.raises(ConfigurationError, match="repeatable read"):
            await connection.run_sync(read_first, postgres.tables, AllRange(""), 10)
    async with postgres.engine.connect() as connection:
        assert (await connection.run_sync(read_first, postgres.tables, AllRange(""), 10))[1] == []


async def test_what_one_server_has_told_is_not_believed_of_another(postgres: Database) -> None:
    await put(postgres, "counter-1", Counted(n=1))

    def goes_on(connection: Connection) -> None:
        read_next(connection, postgres.tables, AllRange("", 7), Horizon(9, 9, "another server"), 10)

    with pytest.raises(UnavailableError, match="read on after position 7"):
        await postgres.read(goes_on)


async def test_a_tenant_reads_its_own_streams_only(database: Database) -> None:
    await put(database, "counter-1", Counted(n=1), Counted(n=2), tenant="red")
    await put(database, "counter-1", Counted(n=3), tenant="blue")
    await put(database, "counter-1", Counted(n=4))

    for tenant, numbers in (("red", [1, 2]), ("blue", [3]), ("", [4]), ("nobody", [])):
        assert [one.event.n async for one in store(database, tenant).read("counter-1")] == numbers
        assert [one.event.n async for one in store(database, tenant).read("counter-1", since=NOW)] == numbers
        assert [one.event.n async for one in store(database, tenant).read("counter-1", backwards=True)] == numbers[::-1]
        everything = store(database, tenant)
        assert [one.event.n async for one in everything.read_all()] == numbers
        assert [one.event.n async for one in everything.read_all(types=[Counted], categories=["counter"])] == numbers


async def test_how_far_another_tenants_stream_has_come_is_not_told(database: Database) -> None:
    await put(database, "counter-1", *[Counted()] * 5, tenant="red")
    await put(database, "counter-1", Counted(), tenant="blue")

    with pytest.raises(AheadOfStoreError) as ahead:
        await versions(store(database, "blue").read("counter-1", after=3))
    assert ahead.value.reached == 1


async def test_the_tenant_is_that_of_the_call_however_late_the_iteration(database: Database) -> None:
    await put(database, "counter-1", Counted(n=1), tenant="red")
    access = Access(database, "red")
    reading = EventStore(access, database.tables, REGISTRY).read("counter-1")
    access.tenant = "blue"

    assert await versions(reading) == [1]


@pytest.mark.parametrize("number", [-1, LAST + 1])
@pytest.mark.parametrize("name", ["after", "until", "limit"])
async def test_numbers_out_of_range_are_refused_at_once(database: Database, name: str, number: int) -> None:
    with pytest.raises(ValueError, match=name):
        store(database).read("counter-1", **{name: number})  # type: ignore[arg-type]  # one of three numbers
    if name != "until":
        with pytest.raises(ValueError, match=name):
            store(database).read_all(**{name: number})  # type: ignore[arg-type]  # one of two numbers


async def test_the_highest_numbers_are_no_error_of_the_database(database: Database) -> None:
    await put(database, "counter-1", Counted())

    assert await versions(store(database).read("counter-1", until=LAST, limit=LAST)) == [1]
    assert await versions(store(database).read_all(limit=LAST)) == [1]
    with pytest.raises(AheadOfStoreError):
        await versions(store(database).read("counter-1", after=LAST))


async def test_a_version_or_position_from_the_future_is_an_error(database: Database) -> None:
    await put(database, "counter-1", Counted(), Counted())
    last = (await all_of(store(database).read_all()))[-1].position

    with pytest.raises(AheadOfStoreError, match="'counter-1' has only come to 2") as ahead:
        await versions(store(database).read("counter-1", after=3))
    assert (ahead.value.asked_for, ahead.value.reached) == (3, 2)
    with pytest.raises(AheadOfStoreError):
        await versions(store(database).read("counter-9", after=1))
    with pytest.raises(AheadOfStoreError, match="the store has only come to"):
        await versions(store(database).read_all(after=last + 1))


@pytest.mark.parametrize("name", ["", "a b", "a\n", "a\x00", "ü", "a" * 201, "a;drop"])
async def test_odd_stream_names_are_refused_at_once(database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="stream name"):
        store(database).read(name)


async def test_other_mistakes_of_a_caller_are_told_at_once(database: Database) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        store(database).read("counter-1", since=datetime(2026, 1, 1))  # noqa: DTZ001  # the case itself
    with pytest.raises(TypeError, match=r"categories=\('counter',\)"):
        store(database).read_all(categories="counter")
    with pytest.raises(UnknownMessageError, match="Unregistered"):
        store(database).read_all(types=[Unregistered])


async def test_a_stored_event_that_nobody_registered_is_an_error_and_not_passed_over(database: Database) -> None:
    await put(database, "counter-1", Counted(), Unregistered())

    with pytest.raises(UnknownMessageError, match="Unregistered"):
        await versions(store(database).read("counter-1"))
    with pytest.raises(UnknownMessageError, match="Unregistered"):
        await versions(store(database).read_all())
    assert await versions(store(database).read_all(types=[Counted])) == [1]
