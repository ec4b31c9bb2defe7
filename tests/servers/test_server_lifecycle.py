"""Servers are started once, shared, restarted and stopped without a trace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tools.servers import Name, ServerError, Servers
from tools.servers.kafka import answers
from tools.servers.processes import Process
from tools.servers.sql import ask, create_database, drop_database, version_at
from tools.servers.state import ELSEWHERE

pytestmark = pytest.mark.anyio

Fleet = Callable[..., Servers]


def process_of(servers: Servers, name: Name) -> Process:
    return Process(**json.loads((servers.folder / f"{name}.json").read_text())["started"]["process"])


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One PostgreSQL for the tests that leave it as they found it."""
    servers = Servers(tmp_path_factory.mktemp("postgres"), {})
    servers.start("postgres")
    yield servers
    servers.stop("postgres")


def test_a_started_postgresql_answers_with_the_durability_it_ships_with(postgres: Servers) -> None:
    server = postgres.start("postgres")
    assert version_at(server.url).startswith(server.version.split(".")[0])
    settings = _settings(server.url)
    assert settings == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_connections": "200"}


def test_a_second_start_changes_nothing(postgres: Servers) -> None:
    before = process_of(postgres, "postgres")
    assert postgres.start("postgres") == postgres.running("postgres")
    assert process_of(postgres, "postgres") == before


def test_a_wrong_password_is_refused(postgres: Servers) -> None:
    url = postgres.start("postgres").url
    with pytest.raises(ServerError, match="password authentication failed"):
        version_at(url.replace("@", "x@"))


async def test_a_database_is_dropped_under_an_open_connection(postgres: Servers) -> None:
    server = postgres.start("postgres").url
    url, other = create_database(server), create_database(server)
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        drop_database(server, url)
        await connection.invalidate()
    await engine.dispose()
    with pytest.raises(ServerError, match="does not exist"):
        version_at(url)
    assert version_at(other)
    drop_database(server, other)


@pytest.mark.parametrize("crash", [False, True], ids=["asked to stop", "killed"])
async def test_a_restart_keeps_data_and_address(postgres: Servers, *, crash: bool) -> None:
    server = postgres.start("postgres")
    url = create_database(server.url)
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE kept AS SELECT 7 AS seven"))
    before = process_of(postgres, "postgres")
    assert postgres.restart("postgres", crash=crash) == server
    assert process_of(postgres, "postgres") != before
    async with engine.begin() as connection:
        assert await connection.scalar(text("SELECT seven FROM kept")) == 7
    drop_database(server.url, url)


def test_stopping_leaves_no_process_and_no_data_and_may_be_repeated(fleet: Fleet) -> None:
    servers = fleet(CQRS_SERVERS_KAFKA="mock")
    servers.start("postgres")
    servers.start("kafka")
    processes = [process_of(servers, "postgres"), process_of(servers, "kafka")]
    elsewhere = servers.folder / "postgres" / ELSEWHERE
    homes = [servers.folder / "postgres", servers.folder / "kafka", elsewhere.resolve()]
    assert [servers.stop("postgres"), servers.stop("kafka")] == [True, True]
    assert not any(process.alive() for process in processes)
    assert not any(home.exists() for home in homes)
    assert [servers.stop("postgres"), servers.stop("kafka")] == [False, False]
    assert servers.running("postgres") is None


def test_the_last_user_stops_a_server_that_nobody_keeps(fleet: Fleet) -> None:
    servers = fleet(CQRS_SERVERS_KAFKA="mock")
    with servers.use("kafka") as first:
        with servers.use("kafka") as second:
            assert second == first
        assert answers(first.url)
    assert servers.running("kafka") is None


def test_a_server_that_somebody_started_outlives_its_users(fleet: Fleet) -> None:
    servers = fleet(CQRS_SERVERS_KAFKA="mock")
    with servers.use("kafka"):
        servers.start("kafka")
    with servers.use("kafka"):
        pass
    assert servers.running("kafka") is not None


def test_a_user_that_was_killed_keeps_no_server_up(fleet: Fleet) -> None:
    servers = fleet(CQRS_SERVERS_KAFKA="mock")
    with servers.use("kafka"):
        file = servers.folder / "kafka.json"
        record = json.loads(file.read_text())
        record["users"]["gone"] = {"pid": _pid_of_an_ended_process(), "started": "1"}
        file.write_text(json.dumps(record))
    assert servers.running("kafka") is None


def test_a_server_that_died_is_replaced(fleet: Fleet) -> None:
    servers = fleet(CQRS_SERVERS_KAFKA="mock")
    servers.start("kafka")
    dead = process_of(servers, "kafka")
    dead.crash()
    assert servers.running("kafka") is None
    assert answers(servers.start("kafka").url)
    assert process_of(servers, "kafka") != dead


def test_the_mock_cannot_be_restarted(fleet: Fleet) -> None:
    servers = fleet(CQRS_SERVERS_KAFKA="mock")
    servers.start("kafka")
    with pytest.raises(ServerError, match="the mock keeps nothing over a restart"):
        servers.restart("kafka")


def test_a_server_of_the_environment_is_used_and_never_stopped(postgres: Servers, fleet: Fleet) -> None:
    url = postgres.start("postgres").url
    servers = fleet(POSTGRES_URL=url.replace("+asyncpg", ""))
    with servers.use("postgres") as server:
        assert (server.how, server.url) == ("environment", url)
    assert servers.stop("postgres") is False
    assert version_at(url)


def test_a_silent_server_of_the_environment_is_named_without_its_password(fleet: Fleet) -> None:
    servers = fleet(POSTGRES_URL="postgresql://me:secret@127.0.0.1:1/test", KAFKA_BOOTSTRAP="127.0.0.1:1")
    with pytest.raises(ServerError, match=r"POSTGRES_URL names 127\.0\.0\.1:1/test, which gives no answer") as refused:
        servers.start("postgres")
    assert "secret" not in str(refused.value)
    with pytest.raises(ServerError, match=r"KAFKA_BOOTSTRAP names 127\.0\.0\.1:1, which gives no answer"):
        servers.start("kafka")


def test_a_mock_named_by_the_environment_is_not_taken_for_a_real_broker(fleet: Fleet, tmp_path: Path) -> None:
    url = fleet(CQRS_SERVERS_KAFKA="mock").start("kafka").url
    same = fleet(KAFKA_BOOTSTRAP=url).start("kafka")
    other = Servers(tmp_path / "other", {"KAFKA_BOOTSTRAP": url}).start("kafka")
    assert (same.how, same.real) == ("librdkafka mock", False)
    assert (other.how, other.real) == ("environment", False)


def test_an_unknown_kind_of_server_is_refused(fleet: Fleet) -> None:
    with pytest.raises(ServerError, match="CQRS_SERVERS_KAFKA is 'redpanda'; write apache or mock"):
        fleet(CQRS_SERVERS_KAFKA="redpanda").start("kafka")


def _settings(url: str) -> dict[str, str]:
    names = ("fsync", "synchronous_commit", "full_page_writes", "max_connections")
    return {name: ask(url, f"SHOW {name}") for name in names}


def _pid_of_an_ended_process() -> int:
    with subprocess.Popen(("true",)) as ended:
        return ended.pid
