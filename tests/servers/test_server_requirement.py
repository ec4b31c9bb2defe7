"""What a test run says about its servers, and when it fails for want of them. Each case is a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.servers import NAMES, Servers

ROOT = Path(__file__).parents[2]
USES_EVERYTHING = """
    import pytest
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    pytestmark = pytest.mark.anyio

    async def test_database(database_url):
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE a (b INTEGER)"))
        await engine.dispose()

    def test_broker(broker_url):
        assert broker_url.startswith(("memory://", "kafka://127.0.0.1:"))

    def test_real(real_kafka): ...
"""
USES_NOTHING = "def test_nothing(): ..."


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    for name in NAMES:
        Servers(made.state, {}).stop(name)


class Run:
    """A run of one test file under the project's conftest, with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"

    def __call__(self, test: str, *options: str, **environment: str) -> tuple[int, str]:
        file = self.folder / "test_it.py"
        lines = test.strip("\n").splitlines()
        file.write_text("\n".join(line.removeprefix("    ") for line in lines) + "\n")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CQRS_", "POSTGRES_", "KAFKA_"))}
        ended = subprocess.run(
            (sys.executable, "-m", "pytest", "-q", "-p", "anyio", "-p", "tests.conftest", str(file), *options),
            cwd=ROOT,
            env={**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CQRS_SERVERS": str(self.state), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return ended.returncode, ended.stdout

    def left(self) -> list[str]:
        """What a run left behind of running servers."""
        return [file.name for file in self.state.glob("*.json")] if self.state.exists() else []


def test_a_run_that_needs_no_server_starts_none(run: Run) -> None:
    status, output = run(USES_NOTHING)
    assert status == 0
    assert "none: no test asked for one" in output
    assert not run.state.exists()


def test_a_run_tells_which_servers_took_part_and_what_was_skipped(run: Run) -> None:
    status, output = run(USES_EVERYTHING, "-rA", CQRS_SERVERS_KAFKA="mock")
    assert status == 0
    for name in ("test_database[sqlite]", "test_database[postgresql]", "test_broker[memory]", "test_broker[kafka]"):
        assert re.search(rf"PASSED \S*test_it\.py::{re.escape(name)}", output)
    assert "\nkafka: librdkafka mock, version" in output
    assert "\npostgres: " in output
    assert "test_it.py::test_real: needs a real broker, and this run has kafka: librdkafka mock" in output
    assert run.left() == []


def test_a_demanded_server_is_started_though_no_test_asks(run: Run) -> None:
    status, output = run(USES_NOTHING, CQRS_REQUIRE_SERVERS="postgresql")
    assert status == 0
    assert "\npostgres: " in output
    assert run.left() == []


def test_a_mock_does_not_satisfy_a_demand(run: Run) -> None:
    status, output = run(USES_NOTHING, CQRS_REQUIRE_SERVERS="kafka", CQRS_SERVERS_KAFKA="mock")
    assert status != 0
    assert "CQRS_REQUIRE_SERVERS demands a real kafka, and this run has kafka: librdkafka mock" in output
    assert run.left() == []


def test_a_missing_server_skips_its_tests_unless_it_is_demanded(run: Run) -> None:
    (run.folder / "conftest.py").write_text(
        "from tools.servers import postgres_binaries\n"
        "postgres_binaries._system_folders = postgres_binaries._wheel_folders = lambda: iter(())\n"
    )
    status, output = run("def test_database(postgres_url): ...")
    assert status == 0
    assert "test_it.py::test_database: PostgreSQL is not installed" in output
    status, output = run("def test_database(postgres_url): ...", CQRS_REQUIRE_SERVERS="postgresql")
    assert status != 0
    assert "CQRS_REQUIRE_SERVERS demands postgres: PostgreSQL is not installed" in output


def test_a_tier_that_does_not_exist_cannot_be_demanded(run: Run) -> None:
    status, output = run(USES_NOTHING, CQRS_REQUIRE_SERVERS="postgresql,kafak")
    assert status != 0
    assert "CQRS_REQUIRE_SERVERS names kafak; it knows postgresql and kafka" in output
