"""What `Database` promises on both kinds of database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from cqrs_fastapi.errors import ConfigurationError, NotRunningError, ReadOnlyError, UnavailableError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import driver_errors
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio


def stream(database: Database, connection: Connection, name: str) -> None:
    values = {"tenant": "", "stream": name, "category": "account", "version": 0}
    connection.execute(insert(database.tables.streams), values)


def count(database: Database, connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(database.tables.streams)).scalar_one()


async def counted(database: Database) -> int:
    return await database.read(lambda connection: count(database, connection))


async def test_a_write_is_committed_when_it_returns_and_answers_what_its_work_returned(database: Database) -> None:
    def work(connection: Connection) -> str:
        stream(database, connection, "account-1")
        return "done"

    assert await database.write(work) == "done"
    assert await counted(database) == 1


async def test_an_error_in_a_work_rolls_everything_back_and_reaches_the_caller(database: Database) -> None:
    def work(connection: Connection) -> None:
        stream(database, connection, "account-1")
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await database.write(work)
    assert await counted(database) == 0


async def test_a_duplicate_is_an_integrity_error_as_the_driver_says_it(database: Database) -> None:
    await database.write(lambda connection: stream(database, connection, "account-1"))
    with pytest.raises(IntegrityError):
        await database.write(lambda connection: stream(database, connection, "account-1"))


async def test_a_savepoint_lets_a_work_go_on_after_an_error(database: Database) -> None:
    def work(connection: Connection) -> None:
        stream(database, connection, "account-1")
        with pytest.raises(IntegrityError), connection.begin_nested():
            stream(database, connection, "account-1")
        stream(database, connection, "account-2")

    await database.write(work)
    assert await counted(database) == 2


async def test_an_error_swallowed_without_a_savepoint_never_loses_a_write_in_silence(database: Database) -> None:
    def work(connection: Connection) -> None:
        stream(database, connection, "account-1")
        with pytest.raises(IntegrityError):
            stream(database, connection, "account-1")

    # SQLite undoes the one statement; PostgreSQL undoes the transaction, which must then be heard of.
    if database.dialect == "sqlite":
        await database.write(work)
        assert await counted(database) == 1
        return
    with pytest.raises(DBAPIError, match="current transaction is aborted"):
        await database.write(work)
    assert await counted(database) == 0
    await database.write(lambda connection: stream(database, connection, "account-1"))
    assert await counted(database) == 1


async def test_a_read_sees_nothing_that_is_not_committed(database: Database) -> None:
    async with database.session() as session:
        await database.run(session, lambda connection: stream(database, connection, "account-1"))
        assert await counted(database) == 0
        await driver_errors.commit(session)
    assert await counted(database) == 1


async def test_what_a_session_runs_ends_with_its_transaction(database: Database) -> None:
    async with database.session() as session:
        await database.run(session, lambda connection: stream(database, connection, "account-1"))
        await session.rollback()
    assert await counted(database) == 0


async def test_a_read_only_session_cannot_write_and_the_next_one_can(database: Database) -> None:
    async with database.session(read_only=True) as session:
        assert await database.run(session, lambda connection: count(database, connection)) == 0
        with pytest.raises(ReadOnlyError):
            await database.run(session, lambda connection: stream(database, connection, "account-1"))
    for _ in range(3):
        async with database.session() as session:
            await database.run(session, lambda connection: stream(database, connection, str(uuid4())))
            await driver_errors.commit(session)
    assert await counted(database) == 3


async def test_four_hundred_concurrent_read_modify_writes_by_sessions_all_succeed(database: Database) -> None:
    await database.write(lambda connection: stream(database, connection, "account-1"))
    streams = database.tables.streams

    async def deposit() -> None:
        for _ in range(50):
            async with database.session() as session:
                found = (await session.execute(select(streams.c.version).with_for_update())).scalar_one()
                await session.execute(update(streams).values(version=found + 1))
                await driver_errors.commit(session)

    await asyncio.gather(*(deposit() for _ in range(8)))
    assert await database.read(lambda connection: connection.execute(select(streams.c.version)).scalar_one()) == 400


async def test_json_identifiers_bytes_and_moments_come_back_as_they_were_given(database: Database) -> None:
    message_id, json = uuid4(), '{"b": 1,  "a": [1.50, "\\u00e9"]}'
    berlin = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    outbox = database.tables.outbox
    row = {"id": message_id, "aggregatetype": "account", "aggregateid": "1", "type": "T", "topic": "accounts"}
    row |= {"bucket": 1, "headers": json, "payload": b"\x00\xff", "available_at": berlin, "created_at": berlin}
    await database.write(lambda connection: connection.execute(insert(outbox), row).rowcount)

    found = await database.read(lambda connection: connection.execute(select(outbox)).one())
    assert (found.id, found.headers, found.payload, found.tenant) == (message_id, json, b"\x00\xff", "")
    assert isinstance(found.id, UUID)
    assert found.available_at == berlin
    assert found.available_at.tzinfo is UTC


async def test_a_moment_without_a_time_zone_is_refused(database: Database) -> None:
    late = select(database.tables.inbox).where(database.tables.inbox.c.received_at < datetime(2026, 1, 1))  # noqa: DTZ001  # the case
    with pytest.raises(Exception, match="has no time zone"):
        await database.read(lambda connection: connection.execute(late).first())


async def test_moments_compare_in_time_whatever_their_zone(database: Database) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    inbox = database.tables.inbox

    def work(connection: Connection) -> None:
        for minutes in (-1, 0, 1):
            moment = (noon + timedelta(minutes=minutes)).astimezone(timezone(timedelta(hours=minutes * 5)))
            row = {"consumer": "c", "message_id": uuid4(), "status": "done", "received_at": moment}
            connection.execute(insert(inbox), row)

    await database.write(work)
    older = select(func.count()).select_from(inbox).where(inbox.c.received_at < noon)
    assert await database.read(lambda connection: connection.execute(older).scalar_one()) == 1


async def test_a_statement_that_fails_does_not_show_its_parameters(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("SELECT :card FROM nowhere"), {"card": "4111-1111"})

    with pytest.raises(DBAPIError) as caught:
        await database.read(work)
    assert "4111-1111" not in str(caught.value)


async def test_ping_answers_and_the_schema_is_at_its_head(database: Database) -> None:
    await database.ping()
    await database.check_schema()


async def test_a_full_pool_is_an_unavailable_database(database_url: str) -> None:
    settings = Settings(database_url=database_url, pool_size=1, pool_overflow=0, pool_timeout=timedelta(seconds=0.1))
    database = Database(settings)
    await database.open()
    async with database.session(read_only=True) as first, database.session(read_only=True) as second:
        await database.run(first, lambda connection: connection.execute(select(1)).scalar_one())
        with pytest.raises(UnavailableError):
            await database.run(second, lambda connection: connection.execute(select(1)).scalar_one())
    await database.close()


async def test_a_sqlite_database_that_is_not_open_says_so(sqlite_url: str) -> None:
    with pytest.raises(NotRunningError, match=r"await database.open\(\)"):
        await Database(Settings(database_url=sqlite_url)).write(lambda _: None)


async def test_a_closed_database_can_be_opened_again(sqlite: Database) -> None:
    await sqlite.write(lambda connection: stream(sqlite, connection, "account-1"))
    await sqlite.close()
    await sqlite.open()
    assert await counted(sqlite) == 1


async def test_a_read_that_writes_is_refused_on_sqlite(sqlite: Database) -> None:
    with pytest.raises(ReadOnlyError, match=r"Database\.write"):
        await sqlite.read(lambda connection: stream(sqlite, connection, "account-1"))
    assert await counted(sqlite) == 0


async def test_sqlite_has_no_schemas(sqlite_url: str) -> None:
    with pytest.raises(ConfigurationError, match="SQLite has no schemas"):
        Database(Settings(database_url=sqlite_url, database_schema="app"))
