"""Line 4: a failure policy per handler, attempts counted at dispatch, and dead letters in sequence."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import APPS, environment
from sqlalchemy import text

from cqrs_fastapi.dead_letters.parking import Letter
from cqrs_fastapi.dead_letters.reading import page
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio


class Fatal:
    """The program, its database and its ledger."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url, self.ledger = url, folder / "ledger.txt"
        self.ledger.touch()
        self.environment = environment(
            folder, CQRS_DATABASE_URL=url, CQRS_HANDLER_ATTEMPTS="3", CQRS_RUN_IN_APP="", LEDGER=str(self.ledger)
        )

    def run(self, what: str) -> int:
        done = subprocess.run(
            [sys.executable, str(APPS / "fatal.py"), what], env=self.environment, timeout=90, check=False
        )
        return done.returncode

    def command(self, *words: str) -> str:
        """The command line, as an operator calls it."""
        done = subprocess.run(
            [sys.executable, "-m", "cqrs_fastapi.cli", *words],
            env=self.environment,
            cwd=APPS,
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def ask(self, query: str) -> list[str]:
        database = Database(Settings(database_url=self.url))
        await database.open()
        try:
            return list(await database.read(lambda c: c.execute(text(query)).scalars().all()))
        finally:
            await database.close()

    async def letters(self) -> list[Letter]:
        database = Database(Settings(database_url=self.url))
        await database.open()
        try:
            found = await database.read(lambda c: page(c, database.tables))
        finally:
            await database.close()
        return sorted(found, key=lambda one: (one.consumer, one.ordinal))


@pytest.fixture
async def fatal(tmp_path: Path, database_url: str) -> Fatal:
    if database_url.startswith("postgresql"):
        database = Database(Settings(database_url=database_url))
        async with database.engine.connect() as connection:
            await connection.run_sync(upgrade)
        await database.close()
    fatal = Fatal(tmp_path, database_url)
    assert fatal.run("write") == 0
    return fatal


async def test_failure_policy_a_message_that_kills_its_process_three_times_is_parked_with_its_followers(
    fatal: Fatal,
) -> None:
    assert [fatal.run("work") for _ in range(4)] == [-signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL, 0]

    heard = fatal.ledger.read_text().split()
    assert heard == ["a1", "poison", "poison", "poison", "b1"]
    assert await fatal.ask("SELECT what FROM heard") == ["a1", "b1"]
    found = await fatal.letters()
    assert [(one.consumer, one.payload, one.code, one.ordinal) for one in found] == [
        ("listener", b'{"what":"poison"}', "handler_crashed", 0),
        ("listener", b'{"what":"a2"}', "behind", 1),
        ("listener", b'{"what":"a3"}', "behind", 2),
    ]
    assert found[0].attempts == 3
    assert "3 times" in found[0].error

    # An operator repairs it, and replays the key.
    better = fatal.ledger.with_name("better.json")
    better.write_bytes(b'{"what":"cured"}')
    fatal.command("dead-letters", "edit", "fatal:cqrs", str(found[0].id), "--payload", str(better))
    key = found[0].sequence or ""
    assert "3 of" in fatal.command("dead-letters", "replay", "fatal:cqrs", "--consumer", "listener", "--key", key)
    assert await fatal.ask("SELECT what FROM heard") == ["a1", "b1", "cured", "a2", "a3"]
    assert await fatal.letters() == []
    assert await fatal.ask("SELECT key FROM cqrs_blocked_keys") == []
    assert await fatal.ask("SELECT consumer FROM cqrs_attempts") == []
    assert set(await fatal.ask("SELECT status FROM cqrs_inbox")) == {"done"}
