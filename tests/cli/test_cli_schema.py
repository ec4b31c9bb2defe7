"""`cqrs schema lock`, `check` and `verify`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from cqrs_fastapi.cli.main import app
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

FIRST = """
from cqrs_fastapi import CQRS, Event

class Paid(Event, name="paid", topic="money"):
    amount: int

class Noted(Event, name="noted"):
    text: str

cqrs = CQRS()
cqrs.register(Paid, Noted)
"""
SECOND = """
from cqrs_fastapi import CQRS, Event, upcasts

class Paid(Event, name="paid", version=2, topic="money"):
    cents: int

class Noted(Event, name="noted"):
    text: str

@upcasts("paid", version=1)
def in_cents(data):
    return {"cents": data["amount"] * 100}

cqrs = CQRS()
cqrs.register(Paid, Noted)
cqrs.upcasters.include(in_cents)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A directory to work in; gives the module `evolving` this source."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def become(source: str) -> None:
        (tmp_path / "evolving.py").write_text(source)
        sys.modules.pop("evolving", None)

    become(FIRST)
    return become


def schema(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["schema", *arguments])


def test_a_lockfile_is_written_and_then_agrees_with_the_code(project: Callable[[str], None], tmp_path: Path) -> None:
    locked = schema("lock", "evolving:cqrs")
    assert (locked.exit_code, locked.stdout) == (0, "schema.lock.json: 2 versions of 2 events\n")
    checked = schema("check", "evolving:cqrs")
    assert (checked.exit_code, checked.stdout) == (0, "schema.lock.json: 2 versions of 2 events can be read\n")
    text = (tmp_path / "schema.lock.json").read_text()
    assert json.loads(text)["events"]["paid"] == {
        "aliases": [],
        "versions": {
            "1": {
                "topic": "money",
                "written": [
                    {"properties": {"amount": {"type": "integer"}}, "required": ["amount"], "type": "object"},
                ],
            }
        },
    }


def test_no_database_is_asked(project: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CQRS_DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    assert schema("lock", "evolving:cqrs").exit_code == 0
    assert schema("check", "evolving:cqrs").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evolving.py", "schema.lock.json"]


def test_another_file_may_be_named(project: Callable[[str], None], tmp_path: Path) -> None:
    assert schema("lock", "evolving:cqrs", "--file", "other.json").exit_code == 0
    assert (tmp_path / "other.json").exists()
    assert schema("check", "evolving:cqrs", "--file", "other.json").exit_code == 0


def test_a_missing_file_is_told_with_the_command_that_writes_it(project: Callable[[str], None]) -> None:
    checked = schema("check", "evolving:cqrs")
    assert checked.exit_code == 2
    assert "run" not in checked.stdout
    assert "write it by: cqrs schema lock evolving:cqrs --file schema.lock.json" in checked.stderr


def test_all_that_breaks_is_numbered_and_the_file_is_left_as_it_is(
    project: Callable[[str], None], tmp_path: Path
) -> None:
    schema("lock", "evolving:cqrs")
    before = (tmp_path / "schema.lock.json").read_text()
    project(FIRST.replace("amount: int", "amount: str").replace('name="noted"', 'name="noted", version=2'))
    for command in ("check", "lock"):
        result = schema(command, "evolving:cqrs")
        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert lines[0].startswith("1. 'noted' version 1 may be stored, and nothing reads it;")
        assert lines[1].startswith("2. Paid may not read what is stored as 'paid' version 1 (amount: integer where")
        assert lines[2].startswith("3. consumers of the topic 'money' would break on 'paid' version 1 (amount:")
    assert (tmp_path / "schema.lock.json").read_text() == before


def test_a_new_version_with_its_upcaster_has_only_to_be_locked(project: Callable[[str], None]) -> None:
    schema("lock", "evolving:cqrs")
    project(SECOND)
    checked = schema("check", "evolving:cqrs")
    assert checked.exit_code == 1
    assert checked.stdout == (
        "1. 'paid' version 2 is not locked as the code stores it now; run: cqrs schema lock evolving:cqrs --file "
        "schema.lock.json\n"
    )
    assert schema("lock", "evolving:cqrs").stdout == "schema.lock.json: 3 versions of 2 events\n"
    assert schema("check", "evolving:cqrs").exit_code == 0
    project(SECOND.replace("cqrs.upcasters.include(in_cents)", ""))
    assert "'paid' version 1 may be stored, and nothing reads it" in schema("check", "evolving:cqrs").stdout


def test_wrong_registrations_are_told_as_at_the_start(project: Callable[[str], None]) -> None:
    project(SECOND.replace('"paid", version=1)', '"paid", version=2)'))
    locked = schema("lock", "evolving:cqrs")
    assert locked.exit_code == 2
    assert "in_cents reads 'paid' version 2, which a class reads as it is" in locked.stderr


# The whole corpus.


def row(number: int, name: str, version: int, data: str, tenant: str = "", *, archived: bool = False) -> dict[str, Any]:
    return {
        "message_id": uuid4(),
        "stream": f"thing-{tenant or 'none'}",
        "version": number,
        "category": "thing",
        "type": name,
        "schema_version": version,
        "data": data,
        "meta": "{}",
        "tenant": tenant,
        "archived": archived,
        "recorded_at": datetime.now(UTC),
    }


async def store(url: str, rows: list[dict[str, Any]]) -> None:
    database = Database(Settings(database_url=url))
    await database.open()
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    if rows:
        await database.write(lambda connection: connection.execute(insert(database.tables.events), rows))
    await database.close()


def test_every_stored_event_is_read_of_all_tenants_and_archived_ones_too(
    project: Callable[[str], None], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(SECOND)
    monkeypatch.setenv("CQRS_DATABASE_URL", database_url)
    rows = [row(number, "paid", 1, '{"amount":3}') for number in range(1, 701)]
    rows += [row(1, "paid", 2, '{"cents":3}', "red"), row(2, "noted", 1, '{"text":"x"}', "red", archived=True)]
    asyncio.run(store(database_url, rows))
    result = schema("verify", "evolving:cqrs")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "'noted' version 1: 1",
        "'paid' version 1: 700",
        "'paid' version 2: 1",
        "702 events can be read",
    ]


def test_what_cannot_be_read_is_told_by_its_place_and_never_by_its_values(
    project: Callable[[str], None], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(SECOND)
    monkeypatch.setenv("CQRS_DATABASE_URL", database_url)
    rows = [
        row(1, "paid", 1, '{"amount":3}'),
        row(2, "paid", 1, '{"secret":"s3cret"}'),
        row(3, "paid", 2, '{"cents":"s3cret"}'),
        row(4, "noted", 9, '{"text":"s3cret"}', archived=True),
        *(row(number, "gone", 1, "{}", "red") for number in range(1, 31)),
    ]
    asyncio.run(store(database_url, rows))
    result = schema("verify", "evolving:cqrs")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    told = [line for line in lines if line.startswith("position")]
    assert len(told) == 20
    assert told[0].startswith(
        "position 2, version 2 of stream 'thing-none', 'paid' version 1: the upcaster in_cents of 'paid' version 1 "
        "failed with KeyError in line"
    )
    assert told[1].startswith("position 3, version 3 of stream 'thing-none', 'paid' version 2: Paid: cents: Input")
    assert told[2].startswith("position 4, version 4 of stream 'thing-none', 'noted' version 9: no message 'noted'")
    assert lines[-1] == "33 of 34 events cannot be read"
    assert "s3cret" not in result.output


def test_an_empty_store_has_nothing_that_cannot_be_read(
    project: Callable[[str], None], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CQRS_DATABASE_URL", database_url)
    asyncio.run(store(database_url, []))
    result = schema("verify", "evolving:cqrs")
    assert (result.exit_code, result.stdout) == (0, "0 events can be read\n")
