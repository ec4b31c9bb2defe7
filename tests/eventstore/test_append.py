"""The promises of one append, on both databases."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
import pytest
from sqlalchemy import func, select

from cqrs_fastapi.errors import ConcurrencyError, StreamClosedError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, checked
from cqrs_fastapi.eventstore.read import read_stream
from cqrs_fastapi.eventstore.records import AppendUnit, IdempotencyRecord, NewEvent, StreamAppend, checked_stream
from cqrs_fastapi.eventstore.repeats import RepeatedError
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class DatabaseOfTest(Database):
    """A database and the way in which the test appends to it."""

    way: Appender | None = None


@pytest.fixture(params=["in a transaction", "by the appender"])
async def database(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[DatabaseOfTest]:
    database = DatabaseOfTest(Settings(database_url=database_url))
    if request.param == "by the appender":
        database.way = Appender(database)
    await database.open()
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    yield database
    await database.close()


def events(*names: str) -> tuple[NewEvent, ...]:
    return tuple(NewEvent(uuid4(), name, 1, f'{{"name":"{name}"}}', "{}") for name in names)


async def write(database: DatabaseOfTest, unit: AppendUnit) -> Mapping[str, int]:
    """By whichever way this test is run for."""
    if isinstance(database.way, Appender):
        return await database.way.append(unit)
    return await database.write(lambda c: append(c, database.tables, unit))


async def put(database: DatabaseOfTest, stream: str, expected: ExpectedVersion, *names: str, tenant: str = "") -> int:
    wanted = StreamAppend(stream, "cat", expected, events(*names))
    return (await write(database, AppendUnit(tenant, NOW, [wanted])))[stream]


async def names(database: DatabaseOfTest, stream: str, **arguments: object) -> list[tuple[int, str]]:
    tenant = str(arguments.pop("tenant", ""))
    rows = await database.read(lambda c: read_stream(c, database.tables, stream, tenant=tenant, **arguments))  # type: ignore[arg-type]  # after and limit
    return [(row.version, row.type) for row in rows]


async def test_events_are_read_in_the_order_of_their_versions(database: DatabaseOfTest) -> None:
    assert await put(database, "cat-1", NO_STREAM, "a", "b") == 2
    assert await put(database, "cat-1", 2, "c") == 3

    assert await names(database, "cat-1") == [(1, "a"), (2, "b"), (3, "c")]
    assert await names(database, "cat-1", after=1, limit=1) == [(2, "b")]


async def test_a_stream_that_does_not_exist_is_empty_and_at_version_0(database: DatabaseOfTest) -> None:
    assert await names(database, "cat-1") == []
    with pytest.raises(ConcurrencyError) as conflict:
        await put(database, "cat-1", STREAM_EXISTS, "a")
    assert conflict.value.actual == 0


async def test_a_second_append_with_the_same_version_is_refused(database: DatabaseOfTest) -> None:
    await put(database, "cat-1", NO_STREAM, "a")
    await put(database, "cat-1", 1, "b")

    with pytest.raises(ConcurrencyError) as conflict:
        await put(database, "cat-1", 1, "c")

    assert (conflict.value.stream, conflict.value.expected, conflict.value.actual) == ("cat-1", "version 1", 2)
    assert await names(database, "cat-1") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("exists", "expected", "accepted"),
    [
        (False, NO_STREAM, True),
        (True, NO_STREAM, False),
        (False, STREAM_EXISTS, False),
        (True, STREAM_EXISTS, True),
        (False, ANY, True),
        (True, ANY, True),
        (False, 1, False),
        (True, 2, False),
        (True, 1, True),
        (True, checked(0), False),
        (False, checked(0), True),
        (True, 0, False),
        (False, 0, True),
    ],
)
async def test_every_expectation_is_held_against_the_stream(
    database: DatabaseOfTest, exists: bool, expected: ExpectedVersion, accepted: bool
) -> None:
    if exists:
        await put(database, "cat-1", NO_STREAM, "first")

    if accepted:
        assert await put(database, "cat-1", expected, "new") == (2 if exists else 1)
    else:
        with pytest.raises(ConcurrencyError):
            await put(database, "cat-1", expected, "new")


async def test_several_streams_are_appended_together_or_not_at_all(database: DatabaseOfTest) -> None:
    await put(database, "cat-b", NO_STREAM, "there")
    both = [StreamAppend("cat-a", "cat", NO_STREAM, events("a")), StreamAppend("cat-b", "cat", NO_STREAM, events("b"))]

    with pytest.raises(ConcurrencyError):
        await write(database, AppendUnit("", NOW, both))

    assert await names(database, "cat-a") == []


def outbox_row(topic: str = "t") -> dict[str, Any]:
    return {
        "id": uuid4(),
        "aggregatetype": "cat",
        "aggregateid": "cat-a",
        "type": "a",
        "topic": topic,
        "key": "cat-a",
        "bucket": 1,
        "headers": "{}",
        "payload": b"\x00{}",
        "attempts": 0,
        "available_at": NOW,
        "tenant": "",
        "created_at": NOW,
    }


async def outbox(database: Database) -> list[str]:
    rows = await database.read(lambda c: c.execute(database.tables.outbox.select().order_by("position")).all())
    return [row.topic for row in rows]


async def test_rows_of_the_outbox_share_the_fate_of_the_events(database: DatabaseOfTest) -> None:
    refused = StreamAppend("cat-a", "cat", 7, events("a"))
    with pytest.raises(ConcurrencyError):
        await write(database, AppendUnit("", NOW, [refused], [outbox_row()]))
    assert await outbox(database) == []

    accepted = StreamAppend("cat-a", "cat", NO_STREAM, events("a"))
    await write(database, AppendUnit("", NOW, [accepted], [outbox_row("first"), outbox_row("second")]))
    assert await outbox(database) == ["first", "second"]


async def test_a_record_is_written_once_and_the_second_writes_nothing(database: DatabaseOfTest) -> None:
    def unit(stream: str, expected: ExpectedVersion = NO_STREAM) -> AppendUnit:
        record = IdempotencyRecord("ann", "key-1", "Pay", 0, "print", '{"answer": 1}')
        return AppendUnit("", NOW, [StreamAppend(stream, "cat", expected, events("a"))], [], record)

    with pytest.raises(ConcurrencyError):
        await write(database, unit("cat-0", 3))  # a conflict leaves no record behind
    await write(database, unit("cat-1"))
    with pytest.raises(RepeatedError):
        await write(database, unit("cat-2"))

    assert await names(database, "cat-1") == [(1, "a")]
    assert await names(database, "cat-2") == []


async def test_of_many_with_the_same_key_one_is_written(database: DatabaseOfTest) -> None:
    written: list[int] = []

    async def race(number: int) -> None:
        record = IdempotencyRecord("", "key", "Pay", 0, "print", "null")
        try:
            await write(
                database, AppendUnit("", NOW, [StreamAppend(f"cat-{number}", "c", ANY, events("a"))], [], record)
            )
        except RepeatedError:
            return
        written.append(number)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(race, number)
    [number] = written
    assert [len(await names(database, f"cat-{other}")) for other in range(20)] == [
        1 if other == number else 0 for other in range(20)
    ]


@pytest.mark.parametrize("column", ["archived", "deleted_at"])
async def test_a_closed_stream_takes_nothing_whatever_is_expected(database: DatabaseOfTest, column: str) -> None:
    await put(database, "cat-1", NO_STREAM, "a")
    value = True if column == "archived" else NOW
    await database.write(lambda c: c.execute(database.tables.streams.update().values({column: value})).rowcount)
    for expected in (ANY, STREAM_EXISTS, 1, NO_STREAM):
        with pytest.raises(StreamClosedError, match="cat-1"):
            await put(database, "cat-1", expected, "b")
    stored = select(func.count()).select_from(database.tables.events)
    assert await database.read(lambda c: c.execute(stored).scalar_one()) == 1


async def test_tenants_do_not_see_each_other(database: DatabaseOfTest) -> None:
    await put(database, "cat-1", NO_STREAM, "a", tenant="red")
    await put(database, "cat-1", NO_STREAM, "b", tenant="blue")

    assert await names(database, "cat-1", tenant="red") == [(1, "a")]
    assert await names(database, "cat-1", tenant="blue") == [(1, "b")]
    assert await names(database, "cat-1") == []


async def test_of_many_racing_appends_one_wins_each_version(database: DatabaseOfTest) -> None:
    won: list[int] = []

    async def race(number: int) -> None:
        try:
            won.append(await put(database, "cat-1", NO_STREAM, f"w{number}"))
        except ConcurrencyError:
            return

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(race, number)

    assert won == [1]
    assert len(await names(database, "cat-1")) == 1


async def test_racing_appends_to_any_version_get_versions_and_positions_in_order(
    database: DatabaseOfTest,
) -> None:
    async with anyio.create_task_group() as group:
        for number in range(25):
            group.start_soon(put, database, "cat-1", ANY, f"w{number}", "more")

    rows = await database.read(lambda c: read_stream(c, database.tables, "cat-1", tenant=""))
    assert [row.version for row in rows] == list(range(1, 51))
    assert [row.position for row in rows] == sorted(row.position for row in rows)


async def test_what_was_stored_comes_back_to_the_letter(database: DatabaseOfTest) -> None:
    event = NewEvent(uuid4(), "täst", 3, '{"z": 1,  "a":"\\u00fc"}', '{"user":"u"}')
    wanted = StreamAppend("cat-1", "cat", NO_STREAM, (event,))
    await write(database, AppendUnit("", NOW, [wanted]))

    [row] = await database.read(lambda c: read_stream(c, database.tables, "cat-1", tenant=""))
    stored = (row.message_id, row.type, row.schema_version, row.data, row.metadata, row.recorded_at)
    assert stored == (event.message_id, "täst", 3, event.data, event.metadata, NOW)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "a\x00", "ü", "a" * 201, "a;drop"])
def test_odd_stream_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="stream name"):
        checked_stream(name)


@pytest.mark.parametrize("version", [-1, 2**63])
def test_a_version_that_no_stream_can_have_cannot_be_expected(version: int) -> None:
    with pytest.raises(ValueError, match="a number from 0 to"):
        checked(version)
