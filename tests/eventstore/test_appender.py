"""Group commit on PostgreSQL: what happens to one unit concerns the others in its group as little as it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from cqrs_fastapi.errors import ConcurrencyError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.eventstore import appender as appender_module
from cqrs_fastapi.eventstore.appender import GROUP, Appender
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM, ExpectedVersion
from cqrs_fastapi.eventstore.read import read_stream
from cqrs_fastapi.eventstore.records import AppendUnit, IdempotencyRecord, NewEvent, StreamAppend
from cqrs_fastapi.eventstore.repeats import RepeatedError
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import postgres
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.postgres import Calls
from tests.runtime.tcp_proxy import TcpProxy

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Watched(Database):
    """Counts calls, and loses the answer of the first `lost` of them, before or after they are carried out."""

    made = 0
    lost = 0
    carried_out = True
    sizes: list[int]

    def calls(self) -> Calls:
        return WatchedCalls(self)


class WatchedCalls(Calls):
    def __init__(self, database: Watched) -> None:
        super().__init__(database.engine.execution_options(isolation_level="AUTOCOMMIT"))
        self._database = database

    async def call(self, statement: str, arguments: Sequence[Any]) -> Sequence[Any]:
        database = self._database
        database.made += 1
        database.sizes.append(len(arguments[6]))
        if database.made <= database.lost:
            if database.carried_out:
                await super().call(statement, arguments)
            raise UnknownOutcomeError("the answer was lost")
        return await super().call(statement, arguments)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Watched]:
    database = Watched(Settings(database_url=postgres_url))
    database.sizes = []
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade)
    yield database
    await database.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender_module, "SETTLING", (0.0, 0.05, 0.1))


def unit(
    stream: str, expected: ExpectedVersion = NO_STREAM, *, data: str = "{}", key: str | None = None, count: int = 1
) -> AppendUnit:
    record = None if key is None else IdempotencyRecord("", key, "Pay", 0, "print", "null")
    events = tuple(NewEvent(uuid4(), "a", 1, data, "{}") for _ in range(count))
    return AppendUnit("", NOW, [StreamAppend(stream, "cat", expected, events)] if count else [], [], record)


async def versions(database: Database, stream: str) -> list[int]:
    rows = await database.read(lambda c: read_stream(c, database.tables, stream, tenant=""))
    return [row.version for row in rows]


async def together(appender: Appender, *units: AppendUnit) -> list[Any]:
    """All in one group behind a first one, which goes by itself."""
    first = asyncio.create_task(appender.append(unit(f"first-{uuid4().hex}")))
    await asyncio.sleep(0)
    outcomes = await asyncio.gather(*(appender.append(one) for one in units), return_exceptions=True)
    await first
    return list(outcomes)


async def test_appends_that_come_while_one_is_under_way_share_statements(database: Watched) -> None:
    outcomes = await together(Appender(database), *(unit(f"cat-{number}") for number in range(50)))

    assert outcomes == [{f"cat-{number}": 1} for number in range(50)]
    assert database.sizes == [1, 26, 24]


async def test_of_those_who_append_again_and_again_one_half_is_written_while_the_other_decides(
    database: Watched,
) -> None:
    appender = Appender(database)

    async def append_often(number: int) -> None:
        for turn in range(10):
            await appender.append(unit(f"cat-{number}-{turn}"))

    await asyncio.gather(*(append_often(number) for number in range(32)))
    assert database.sizes == [16] * 20


async def test_a_group_has_a_largest_size(database: Watched) -> None:
    await together(Appender(database), *(unit(f"cat-{number}") for number in range(3 * GROUP)))
    assert max(database.sizes) == GROUP
    assert sum(database.sizes) == 3 * GROUP + 1


async def test_what_comes_while_the_connection_is_given_back_is_written(database: Watched) -> None:
    appender, late = Appender(database), []

    class Slow(WatchedCalls):
        async def __aexit__(self, *told: object) -> None:
            if not late:
                late.append(asyncio.create_task(appender.append(unit("cat-late"))))
                await asyncio.sleep(0.01)
            await super().__aexit__(*told)

    database.calls = lambda: Slow(database)  # type: ignore[method-assign]
    await appender.append(unit("cat-a"))
    async with asyncio.timeout(5):
        while not late:
            await asyncio.sleep(0.01)
        assert await late[0] == {"cat-late": 1}


async def test_a_conflict_concerns_its_own_member_alone(database: Watched) -> None:
    outcomes = await together(Appender(database), unit("cat-a"), unit("cat-a"), unit("cat-a", ANY), unit("cat-b"))

    assert outcomes[0] == {"cat-a": 1}
    assert isinstance(outcomes[1], ConcurrencyError)
    assert (outcomes[1].stream, outcomes[1].expected, outcomes[1].actual) == ("cat-a", "no stream", 1)
    assert outcomes[2:] == [{"cat-a": 2}, {"cat-b": 1}]
    assert await versions(database, "cat-a") == [1, 2]


async def test_a_payload_that_is_no_json_fails_alone(database: Watched) -> None:
    outcomes = await together(Appender(database), unit("cat-a"), unit("cat-b", data="{"), unit("cat-c"))

    assert outcomes[0] == {"cat-a": 1}
    assert isinstance(outcomes[1], DBAPIError)
    assert outcomes[2] == {"cat-c": 1}
    assert await versions(database, "cat-b") == []


async def test_a_caller_who_leaves_takes_its_waiting_unit_back(database: Watched) -> None:
    appender = Appender(database)
    first = asyncio.create_task(appender.append(unit("first")))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(appender.append(unit("cat-a")))
    staying = asyncio.create_task(appender.append(unit("cat-b")))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await asyncio.gather(first, staying)) == [{"first": 1}, {"cat-b": 1}]
    assert await versions(database, "cat-a") == []


async def test_a_row_that_somebody_else_has_locked_holds_up_its_own_member_alone(database: Watched) -> None:
    appender = Appender(database)
    await appender.append(unit("cat-a"))
    async with database.engine.connect() as other:
        await other.execute(text("SELECT 1 FROM cqrs_streams WHERE stream = 'cat-a' FOR UPDATE"))
        waiting = asyncio.create_task(appender.append(unit("cat-a", ANY)))
        for number in range(5):
            assert await appender.append(unit(f"cat-b-{number}")) == {f"cat-b-{number}": 1}
        assert not waiting.done()
        await other.rollback()
    assert await waiting == {"cat-a": 2}


@pytest.mark.parametrize("expected", [NO_STREAM, ANY])
@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_lost_answer_is_settled_by_the_message_ids(
    database: Watched, *, carried_out: bool, expected: ExpectedVersion
) -> None:
    database.lost, database.carried_out = 2, carried_out
    outcomes = await together(Appender(database), unit("cat-a", expected), unit("cat-b", expected, count=3))

    assert outcomes == [{"cat-a": 1}, {"cat-b": 3}]
    assert await versions(database, "cat-b") == [1, 2, 3]


async def test_a_lost_answer_is_no_excuse_for_a_conflict(database: Watched) -> None:
    appender = Appender(database)
    await appender.append(unit("cat-a"))
    database.made, database.lost, database.carried_out = 0, 1, False
    with pytest.raises(ConcurrencyError):
        await appender.append(unit("cat-a"))
    assert await versions(database, "cat-a") == [1]


async def test_a_lost_answer_is_settled_by_the_record_where_there_are_no_events(database: Watched) -> None:
    database.lost = 1
    with pytest.raises(RepeatedError):  # which has the answer of the first attempt read
        await Appender(database).append(unit("cat-a", key="k", count=0))


async def test_what_has_nothing_to_collide_with_is_told_to_be_unknown(database: Watched) -> None:
    database.lost = 1
    with pytest.raises(UnknownOutcomeError):
        await Appender(database).append(AppendUnit("", NOW))


async def test_a_stream_that_somebody_else_is_creating_holds_up_its_own_member_alone(database: Watched) -> None:
    appender = Appender(database)
    async with database.engine.connect() as other:
        await other.execute(text("INSERT INTO cqrs_streams (stream, category, version) VALUES ('cat-a', 'cat', 1)"))
        waiting = asyncio.create_task(appender.append(unit("cat-a")))
        beside = asyncio.create_task(appender.append(unit("cat-b")))
        assert await asyncio.wait_for(beside, 5) == {"cat-b": 1}
        assert not waiting.done()
        await other.rollback()
    assert await waiting == {"cat-a": 1}


async def test_a_back_end_that_is_killed_in_the_middle_loses_nothing(database: Watched) -> None:
    appender = Appender(database)
    async with database.engine.begin() as connection:  # a group gives up on a lock soon unless it is told otherwise
        await connection.exec_driver_sql(f'ALTER DATABASE "{database.engine.url.database}" SET lock_timeout = 10000')
    await database.engine.dispose()
    async with database.engine.connect() as other:
        # A record that is not yet committed holds the group up, inside of its statement.
        await other.execute(
            text(
                "INSERT INTO cqrs_idempotency (user_id, key, command, ordinal, fingerprint, response, created_at)"
                " VALUES ('', 'k', 'Pay', 0, '', 'null', now())"
            )
        )
        waiting = asyncio.gather(*(appender.append(one) for one in (unit("cat-a", key="k"), unit("cat-b"))))
        victim = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not await database.read(lambda connection: connection.execute(victim).all()):
            await asyncio.sleep(0.02)
        await other.rollback()
    assert await asyncio.wait_for(waiting, 10) == [{"cat-a": 1}, {"cat-b": 1}]
    assert await versions(database, "cat-a") == await versions(database, "cat-b") == [1]


async def test_a_database_that_is_away_has_written_nothing() -> None:
    database = Database(Settings(database_url="postgresql+asyncpg://nobody@127.0.0.1:9/none"))
    with pytest.raises(UnavailableError):
        await Appender(database).append(unit("cat-a"))
    await database.close()


async def test_closing_writes_what_waits(database: Watched) -> None:
    appender = Appender(database)
    tasks = [asyncio.create_task(appender.append(unit(f"cat-{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    await appender.close()
    assert [task.result() for task in tasks] == [{f"cat-{number}": 1} for number in range(3)]


class Broken:
    """A driver whose answer is lost, on a connection that cannot be given back either."""

    def is_closed(self) -> bool:
        return False

    async def fetchrow(self, *_: object, **__: object) -> None:
        raise ConnectionResetError

    async def invalidate(self) -> None:
        raise RuntimeError("not even that")


async def test_an_unknown_outcome_is_not_hidden_behind_what_fails_after_it(database: Watched) -> None:
    calls = Calls(database.engine)
    calls._driver = calls._connection = Broken()  # type: ignore[assignment]  # it does what they do
    with pytest.raises(UnknownOutcomeError):
        await calls.call("SELECT 1", ())


async def test_a_server_that_hangs_holds_the_line_no_longer_than_the_limit(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.5)
    behind = make_url(postgres_url)
    door = TcpProxy(behind.host or "", behind.port or 0)
    await door.open()
    url = behind.set(host="127.0.0.1", port=door.port).render_as_string(hide_password=False)
    database = Database(Settings(database_url=url))
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade)
    appender = Appender(database)
    await appender.append(unit("cat-a"))

    door.mode = "black"
    monkeypatch.setattr(appender_module, "SETTLING", ())
    async with asyncio.timeout(5):
        with pytest.raises(UnknownOutcomeError):
            await appender.append(unit("cat-b"))
    monkeypatch.setattr(appender_module, "SETTLING", (0.0, 0.2, 0.5, 1.0, 2.0))
    hanging = asyncio.gather(appender.append(unit("cat-c")), appender.append(unit("cat-d")))
    await asyncio.sleep(1.0)
    door.mode = "open"
    async with asyncio.timeout(20):
        assert await hanging == [{"cat-c": 1}, {"cat-d": 1}]
    assert await versions(database, "cat-c") == await versions(database, "cat-d") == [1]
    await database.close()
    await door.shut()
