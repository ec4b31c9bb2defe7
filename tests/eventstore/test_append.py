"""The promises of one append, on both databases."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import anyio
import pytest

from cqrs_fastapi.errors import ConcurrencyError
from cqrs_fastapi.eventstore.append import append, current_version
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, checked
from cqrs_fastapi.eventstore.read import read_stream
from cqrs_fastapi.eventstore.records import NewEvent, SiblingRows, StreamAppend, checked_stream
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(Settings(database_url=database_url))
    await database.open()
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    yield database
    await database.close()


def events(*names: str) -> tuple[NewEvent, ...]:
    return tuple(NewEvent(uuid4(), name, 1, f'{{"name":"{name}"}}', "{}") for name in names)


async def put(database: Database, stream: str, expected: ExpectedVersion, *names: str, tenant: str = "") -> int:
    wanted = StreamAppend(stream, "cat", expected, events(*names))
    versions = await database.write(lambda c: append(c, database.tables, [wanted], [], tenant=tenant, now=NOW))
    return versions[stream]


async def names(database: Database, stream: str, **arguments: object) -> list[tuple[int, str]]:
    tenant = str(arguments.pop("tenant", ""))
    rows = await database.read(lambda c: read_stream(c, database.tables, stream, tenant=tenant, **arguments))  # type: ignore[arg-type]  # after and limit
    return [(row.version, row.type) for row in rows]


async def test_events_are_read_in_the_order_of_their_versions(database: Database) -> None:
    assert await put(database, "cat-1", NO_STREAM, "a", "b") == 2
    assert await put(database, "cat-1", 2, "c") == 3

    assert await names(database, "cat-1") == [(1, "a"), (2, "b"), (3, "c")]
    assert await names(database, "cat-1", after=1, limit=1) == [(2, "b")]


async def test_a_stream_that_does_not_exist_is_empty_and_at_version_0(database: Database) -> None:
    assert await names(database, "cat-1") == []
    assert await database.read(lambda c: current_version(c, database.tables, "cat-1", tenant="")) == 0


async def test_a_second_append_with_the_same_version_is_refused(database: Database) -> None:
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
    ],
)
async def test_every_expectation_is_held_against_the_stream(
    database: Database, exists: bool, expected: ExpectedVersion, accepted: bool
) -> None:
    if exists:
        await put(database, "cat-1", NO_STREAM, "first")

    if accepted:
        assert await put(database, "cat-1", expected, "new") == (2 if exists else 1)
    else:
        with pytest.raises(ConcurrencyError):
            await put(database, "cat-1", expected, "new")


async def test_several_streams_are_appended_together_or_not_at_all(database: Database) -> None:
    await put(database, "cat-b", NO_STREAM, "there")
    both = [StreamAppend("cat-a", "cat", NO_STREAM, events("a")), StreamAppend("cat-b", "cat", NO_STREAM, events("b"))]

    with pytest.raises(ConcurrencyError):
        await database.write(lambda c: append(c, database.tables, both, [], tenant="", now=NOW))

    assert await names(database, "cat-a") == []


async def test_sibling_rows_share_the_fate_of_the_events(database: Database) -> None:
    row = {"projection": "p", "partition": "0", "position": 1, "updated_at": NOW}
    refused = StreamAppend("cat-a", "cat", 7, events("a"))
    rows = SiblingRows(database.tables.checkpoints, [row])

    with pytest.raises(ConcurrencyError):
        await database.write(lambda c: append(c, database.tables, [refused], [rows], tenant="", now=NOW))

    found = await database.read(lambda c: c.execute(database.tables.checkpoints.select()).all())
    assert found == []


async def test_tenants_do_not_see_each_other(database: Database) -> None:
    await put(database, "cat-1", NO_STREAM, "a", tenant="red")
    await put(database, "cat-1", NO_STREAM, "b", tenant="blue")

    assert await names(database, "cat-1", tenant="red") == [(1, "a")]
    assert await names(database, "cat-1", tenant="blue") == [(1, "b")]
    assert await names(database, "cat-1") == []


async def test_of_many_racing_appends_one_wins_each_version(database: Database) -> None:
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


async def test_racing_appends_to_any_version_get_versions_1_to_n_and_ascending_positions(database: Database) -> None:
    async with anyio.create_task_group() as group:
        for number in range(25):
            group.start_soon(put, database, "cat-1", ANY, f"w{number}", "more")

    rows = await database.read(lambda c: read_stream(c, database.tables, "cat-1", tenant=""))
    assert [row.version for row in rows] == list(range(1, 51))
    assert [row.position for row in rows] == sorted(row.position for row in rows)


async def test_what_was_stored_comes_back_to_the_letter(database: Database) -> None:
    event = NewEvent(uuid4(), "täst", 3, '{"z": 1,  "a":"\\u00fc"}', '{"user":"u"}')
    wanted = StreamAppend("cat-1", "cat", NO_STREAM, (event,))
    await database.write(lambda c: append(c, database.tables, [wanted], [], tenant="", now=NOW))

    [row] = await database.read(lambda c: read_stream(c, database.tables, "cat-1", tenant=""))
    stored = (row.message_id, row.type, row.schema_version, row.data, row.metadata, row.recorded_at)
    assert stored == (event.message_id, "täst", 3, event.data, event.metadata, NOW)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "a\x00", "ü", "a" * 201, "a;drop"])
def test_odd_stream_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="stream name"):
        checked_stream(name)


def test_a_negative_version_cannot_be_expected() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        checked(-1)
