"""What a database that goes away looks like from here."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from cqrs_fastapi import migrations
from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import driver_errors
from cqrs_fastapi.storage.database import Database
from tools.servers import postgres
from tools.servers.ports import free_port
from tools.servers.state import Started, StateFolder

pytestmark = pytest.mark.anyio


def one(connection: Connection) -> int:
    return int(connection.execute(select(1)).scalar_one())


def die(connection: Connection) -> None:
    connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def test_a_database_that_was_never_there_is_unavailable(anyio_backend: str) -> None:
    database = Database(Settings(database_url=f"postgresql+asyncpg://u:secret@localhost:{free_port()}/d"))
    await database.open()
    for attempt in (database.ping(), database.read(one), database.write(one), database.check_schema()):
        with pytest.raises(UnavailableError) as caught:
            await attempt
        assert "secret" not in str(caught.value)
    async with database.session() as session:
        with pytest.raises(UnavailableError):
            await database.run(session, one)
    await database.close()


async def test_a_login_that_is_refused_is_unavailable(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url.rpartition("/")[0] + "/no_such_database"))
    with pytest.raises(UnavailableError, match="no_such_database"):
        await database.ping()
    await database.close()


async def test_a_connection_that_dies_before_the_commit_has_written_nothing(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url))
    with pytest.raises(UnavailableError):
        await database.write(die)
    assert await database.write(one) == 1
    await database.close()


@pytest.fixture
async def dying_at_commit(postgres_url: str) -> str:
    """A table whose rows end the connection when they are committed."""
    database = Database(Settings(database_url=postgres_url))

    def work(connection: Connection) -> None:
        die_function = "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        connection.exec_driver_sql("CREATE TABLE deadly (id integer)")
        connection.exec_driver_sql(f"CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS {die_function}")
        deferred = "AFTER INSERT ON deadly DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()"
        connection.exec_driver_sql(f"CREATE CONSTRAINT TRIGGER die {deferred}")

    await database.write(work)
    await database.close()
    return postgres_url


def insert_deadly(connection: Connection) -> None:
    connection.exec_driver_sql("INSERT INTO deadly VALUES (1)")


async def test_a_connection_that_dies_in_the_commit_leaves_the_outcome_unknown(dying_at_commit: str) -> None:
    database = Database(Settings(database_url=dying_at_commit))
    with pytest.raises(UnknownOutcomeError, match="look before you repeat it"):
        await database.write(insert_deadly)
    async with database.session() as session:
        await database.run(session, insert_deadly)
        with pytest.raises(UnknownOutcomeError):
            await driver_errors.commit(session)
    assert await database.read(one) == 1
    await database.close()


async def test_an_ordinary_refusal_of_the_commit_passes_as_it_is(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url))
    deferred = "CREATE TABLE once (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    await database.write(lambda connection: connection.exec_driver_sql(deferred) and None)
    with pytest.raises(DBAPIError, match="duplicate key"):
        await database.write(lambda connection: connection.exec_driver_sql("INSERT INTO once VALUES (1), (1)") and None)
    await database.close()


@pytest.fixture
def own_server(postgres_server: str, tmp_path: Path) -> Iterator[Started]:
    """A server that this test may stop; the shared one tells that there are binaries."""
    folder = StateFolder(tmp_path / "servers")
    folder.path.mkdir()
    started = postgres.start(folder.data("postgres"), folder.log("postgres"))
    yield started
    started.process.stop(signal.SIGINT, grace=10)
    folder.remove_data("postgres")


async def test_a_restarted_server_is_used_again_without_anybodys_help(own_server: Started) -> None:
    database = Database(Settings(database_url=own_server.server.url))
    await database.write(migrations.upgrade)
    await database.ping()

    own_server.process.stop(signal.SIGINT, grace=10)
    for attempt in (database.ping(), database.read(one), database.write(one)):
        with pytest.raises(UnavailableError):
            await attempt

    again = postgres.spawn_ready(own_server.launch, own_server.server.url)
    try:
        await database.ping()
        await database.check_schema()
        assert await database.write(one) == 1
    finally:
        await database.close()
        again.stop(signal.SIGINT, grace=10)


async def test_a_read_on_a_connection_that_died_in_the_pool_is_repeated_on_a_new_one(own_server: Started) -> None:
    database = Database(Settings(database_url=own_server.server.url))
    await database.ping()
    own_server.process.stop(signal.SIGINT, grace=10)
    again = postgres.spawn_ready(own_server.launch, own_server.server.url)
    try:
        assert await database.read(one) == 1
    finally:
        await database.close()
        again.stop(signal.SIGINT, grace=10)


async def test_a_folder_that_vanished_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    database = Database(Settings(database_url=f"sqlite+aiosqlite:///{tmp_path}/data/test.db"))
    await database.open()
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UnavailableError):
        await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE t (id INTEGER)") and None)
    await database.close()


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("got result for unknown protocol state 3"),
    ],
)
def test_a_driver_that_lost_its_connection_says_so_without_a_code(error: Exception) -> None:
    with pytest.raises(UnavailableError), driver_errors.before_commit():
        raise error
    with pytest.raises(UnknownOutcomeError), driver_errors.at_commit():
        raise error


def test_a_wrong_use_of_the_driver_is_no_lost_connection() -> None:
    error = asyncpg.InterfaceError("the server expects 2 arguments for this query, 1 was passed")
    with pytest.raises(asyncpg.InterfaceError), driver_errors.before_commit():
        raise error


async def test_a_read_that_is_cancelled_takes_no_connection_along(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url, pool_size=1, pool_overflow=0))
    await database.open()
    for _ in range(3):
        reading = asyncio.create_task(database.read(lambda connection: connection.execute(text("SELECT pg_sleep(60)"))))
        waiting = asyncio.create_task(database.read(lambda connection: connection.execute(text("SELECT 1")).scalar()))
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.wait_for(waiting, 30) == 1
    await database.close()
