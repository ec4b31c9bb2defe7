"""The application's own chain in `alembic/`, beside the framework's revisions."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from cqrs_fastapi import migrations
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import schema
from cqrs_fastapi.storage.database import Database

ROOT = Path(__file__).parents[2]

APP_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "app1"
down_revision = None


def upgrade():
    op.create_table("balances", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("balances")
"""

NEXT_FRAMEWORK_REVISION = """
revision = "9999"
down_revision = "{head}"


def upgrade(op, names):
    values = "('mark', 1, '2026-01-01T00:00:00.000000+00:00')"
    op.execute(f"INSERT INTO {{names.of('leases')}} (name, epoch, expires_at) VALUES {{values}}")


def downgrade(op, names):
    op.execute(f"DELETE FROM {{names.of('leases')}} WHERE name = 'mark'")
"""


class Application:
    """A copy of the repository's `alembic/` with one revision and one table of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url, self.folder = url, folder
        shutil.copytree(ROOT / "alembic", folder / "alembic", ignore=shutil.ignore_patterns("*.pyc"))
        versions = folder / "alembic" / "versions"
        for revision in versions.glob("*.py"):
            revision.unlink()
        (versions / "app1_balances.py").write_text(APP_REVISION)
        self._give_env_a_table(folder / "alembic" / "env.py")
        self.config = Config()
        self.config.set_main_option("script_location", str(folder / "alembic"))
        self.config.set_main_option("path_separator", "os")

    def _give_env_a_table(self, env: Path) -> None:
        table = (
            "from sqlalchemy import Column, Integer, Table\n"
            'Table("balances", target_metadata, Column("id", Integer, primary_key=True))\n'
        )
        head, marker, tail = env.read_text().partition("\ndef include_name")
        assert marker
        env.write_text(f"{head}\ntarget_metadata = MetaData()\n{table}{marker}{tail}")


@pytest.fixture
def application(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Application:
    monkeypatch.setenv("CQRS_DATABASE_URL", database_url)
    return Application(tmp_path / "application", database_url)


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of scripts with a revision that no release has; a test switches to it by `release`."""
    scripts = tmp_path / "scripts"
    shutil.copytree(schema.SCRIPTS, scripts, ignore=shutil.ignore_patterns("*.pyc"))
    (scripts / "versions" / "r9999_mark.py").write_text(NEXT_FRAMEWORK_REVISION.format(head=migrations.head()))
    return scripts


async def on(url: str, work: object) -> object:
    database = Database(Settings(database_url=url))
    try:
        async with database.engine.connect() as connection:
            return await connection.run_sync(work)  # type: ignore[arg-type]  # a function of a connection
    finally:
        await database.close()


def look(connection: Connection) -> tuple[str | None, bool, bool]:
    """The framework's revision, whether its marker row is there, whether the application's table is there."""
    tables = inspect(connection).get_table_names()
    marks = text("SELECT count(*) FROM cqrs_leases WHERE name = 'mark'")
    marked = "cqrs_leases" in tables and bool(connection.execute(marks).scalar_one())
    return migrations.current(connection), marked, "balances" in tables


@pytest.mark.parametrize("opened_before", [False, True])
def test_a_framework_revision_that_comes_after_one_of_the_application_is_applied(
    application: Application, next_revision: Path, monkeypatch: pytest.MonkeyPatch, *, opened_before: bool
) -> None:
    def state() -> object:
        return asyncio.run(on(application.url, look))

    if opened_before:
        asyncio.run(open_once(application.url))
    command.upgrade(application.config, "head")
    command.check(application.config)
    first = migrations.head()
    assert state() == (first, False, True)

    monkeypatch.setattr(schema, "SCRIPTS", next_revision)
    command.check(application.config)
    assert state() == (first, False, True)  # a check changes nothing
    command.upgrade(application.config, "head")
    assert state() == ("9999", True, True)
    command.check(application.config)

    command.downgrade(application.config, "base")
    assert state() == ("9999", True, False)
    command.upgrade(application.config, "head")
    assert state() == ("9999", True, True)
    asyncio.run(on(application.url, lambda connection: migrations.downgrade(connection, revision=first)))
    assert state() == (first, False, True)
    asyncio.run(on(application.url, lambda connection: migrations.downgrade(connection, revision="base")))
    assert state() == (None, False, True)


async def open_once(url: str) -> None:
    database = Database(Settings(database_url=url))
    await database.open()
    await database.close()


def alembic(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", "alembic", *arguments),
        cwd=ROOT,
        env={**os.environ, "CQRS_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(url: str, *arguments: str) -> str:
    process = alembic(url, *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_the_command_line_upgrades_checks_and_downgrades_from_the_root_of_the_repository(database_url: str) -> None:
    run(database_url, "upgrade", "head")
    assert "No new upgrade operations detected" in run(database_url, "check")
    run(database_url, "downgrade", "base")
    run(database_url, "upgrade", "head")


def test_two_command_lines_at_once_do_no_harm(application: Application) -> None:
    revision = application.folder / "alembic" / "versions" / "app1_balances.py"
    # Slow enough that the second one arrives while the first one's transaction is open.
    revision.write_text(APP_REVISION.replace("    op.create_table", "    __import__('time').sleep(2); op.create_table"))
    ini = shutil.copy(ROOT / "alembic.ini", application.folder)
    processes = [alembic(application.url, "-c", str(ini), "upgrade", "head") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs


def test_offline_sql_is_refused_with_a_reason(sqlite_url: str) -> None:
    process = alembic(sqlite_url, "upgrade", "head", "--sql")
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "--sql is not supported" in output
    assert "Traceback" not in output


def test_the_folder_of_the_applications_migrations_does_not_shadow_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
    program = (sys.executable, "-c", "import alembic; print(alembic.__version__)")
    found = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
