"""Databases and brokers for tests. Real servers are started by the first test that asks, and gone after the last.

`POSTGRES_URL` and `KAFKA_BOOTSTRAP` name servers that run already. `CQRS_REQUIRE_SERVERS=postgresql,kafka` makes a run
fail that does not have the real ones. Topics and consumer groups are shared by all tests of a run: name them uniquely.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.pytest_servers import ServersOfRun
from tools.servers.kafka_secured import Secured, secured
from tools.servers.sql import create_database, drop_database


def pytest_configure(config: pytest.Config) -> None:
    ServersOfRun.of(config)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> str:
    """The URL of the maintenance database of a PostgreSQL server; not a place for tables."""
    return ServersOfRun.of(pytestconfig).take("postgres").url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty PostgreSQL database of the test's own. Connections that the test leaves open are cut."""
    url = create_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite file of the test's own, which does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of the test's own; the test runs once on each kind."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config) -> str:
    """The `host:port` of a Kafka broker, which may be librdkafka's mock: no rebalances, no administration."""
    return ServersOfRun.of(pytestconfig).take("kafka").url


@pytest.fixture(scope="session")
def real_kafka(pytestconfig: pytest.Config, kafka_bootstrap: str) -> str:
    """The `host:port` of a real Apache Kafka; topics exist there only when they are declared."""
    server = ServersOfRun.of(pytestconfig).take("kafka")
    if not server.real:
        pytest.skip(f"needs a real broker, and this run has {server}")
    return kafka_bootstrap


@pytest.fixture(scope="session")
def secured_kafka(real_kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """An Apache Kafka with TLS and SASL of its own, where the run has a real one at all."""
    del real_kafka
    with secured(tmp_path_factory.mktemp("secured")) as kafka:
        yield kafka


@pytest.fixture(params=["memory", "kafka"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """The URL of a broker; the test runs once on each kind."""
    return "memory://" if request.param == "memory" else f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
