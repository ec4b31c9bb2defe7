"""Dead letters, listed for people and for programs."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from cqrs_fastapi.cli.main import app
from cqrs_fastapi.dead_letters.parking import Letter, park
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database


def letter(number: int, payload: bytes, error: str = "ValueError: no") -> Letter:
    return Letter(
        id=UUID(int=number),
        consumer="send_mail",
        message_id=uuid4(),
        topic="accounts",
        partition=2,
        offset=40 + number,
        key=b"account-1",
        headers={"type": "Deposited", "odd": "a\x1b[31mred"},
        payload=payload,
        code="ValueError",
        error=error,
        traceback="Traceback (most recent call last):\nValueError: no",
        attempts=5,
        parked_at=datetime(2026, 1, number, 12, tzinfo=UTC),
    )


async def park_all(url: str, letters: list[Letter]) -> None:
    database = Database(Settings(database_url=url))
    await database.open()
    for one in letters:
        await database.write(lambda connection, one=one: park(connection, database.tables, one))
    await database.close()


@pytest.fixture
def parked(project: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> list[Letter]:
    letters = [letter(1, b'{"amount": 3}'), letter(2, b"\xff\x00"), letter(3, b"\x1b[2J", "\x1b[31mboo")]
    monkeypatch.setenv("CQRS_DATABASE_URL", sqlite_url)
    asyncio.run(park_all(sqlite_url, letters))
    return letters


def cqrs(command: str, *arguments: str, **given: Any) -> Any:
    return CliRunner().invoke(
        app, ["dead-letters", command, "shop:cqrs", *arguments], color=True, **given
    )  # as to a terminal


def test_without_dead_letters_it_says_so(project: Path) -> None:
    assert cqrs("list").stdout == "no dead letters\n"


def test_the_newest_come_first_with_all_that_one_needs_to_know(parked: list[Letter]) -> None:
    result = cqrs("list", "--limit", "2")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith("0000")] == [
        str(parked[2].id),
        str(parked[1].id),
    ]
    for expected in ("2026-01-03T12:00:00+00:00", "send_mail", "accounts/2/43", "4 bytes", "5 attempts", "2 of 3"):
        assert expected in result.stdout


def test_nothing_that_strangers_wrote_steers_the_terminal(parked: list[Letter]) -> None:
    shown = [cqrs("list"), *(cqrs("show", str(one.id)) for one in parked)]
    assert all(result.exit_code == 0 for result in shown)
    assert not any("\x1b" in result.stdout for result in shown)


def test_programs_get_json(parked: list[Letter]) -> None:
    rows = json.loads(cqrs("list", "--json").stdout)
    assert [row["id"] for row in rows] == [str(one.id) for one in reversed(parked)]
    assert rows[0] == {
        "id": str(parked[2].id),
        "parked_at": "2026-01-03T12:00:00Z",
        "consumer": "send_mail",
        "message_id": str(parked[2].message_id),
        "topic": "accounts",
        "partition": 2,
        "offset": 43,
        "code": "ValueError",
        "error": "\x1b[31mboo",
        "attempts": 5,
        "bytes": 4,
        "tenant": "",
        "closed_key": None,
        "place": 0,
        "retry_at": None,
    }


def test_one_is_shown_with_its_headers_and_payload(parked: list[Letter]) -> None:
    text = cqrs("show", str(parked[0].id)).stdout
    assert "type: Deposited" in text
    assert '{"amount": 3}' in text
    assert "key: account-1" in text
    assert "base64 /wA=" in cqrs("show", str(parked[1].id)).stdout

    value = json.loads(cqrs("show", str(parked[1].id), "--json").stdout)
    assert base64.b64decode(value["payload_base64"]) == b"\xff\x00"
    assert value["headers"]["type"] == "Deposited"


def test_an_unknown_id_is_refused(parked: list[Letter]) -> None:
    result = cqrs("show", str(UUID(int=9)))
    assert result.exit_code == 2
    assert "no dead letter has the id" in result.stderr


def test_all_are_exported_the_oldest_first_line_by_line(parked: list[Letter]) -> None:
    rows = [json.loads(line) for line in cqrs("export").stdout.splitlines()]
    assert [row["id"] for row in rows] == [str(one.id) for one in parked]
    assert base64.b64decode(rows[1]["payload_base64"]) == b"\xff\x00"
    assert cqrs("export", "--consumer", "nobody").stdout == ""


def test_payload_and_headers_are_edited_and_the_id_stays(parked: list[Letter], tmp_path: Path) -> None:
    one = str(parked[0].id)
    better = tmp_path / "better.json"
    better.write_bytes(b'{"amount": 4}')
    assert cqrs("edit", one, "--payload", str(better)).exit_code == 0
    assert cqrs("edit", one, "--header", "type=Paid", "--header", "odd=").exit_code == 0
    value = json.loads(cqrs("show", one, "--json").stdout)
    assert base64.b64decode(value["payload_base64"]) == b'{"amount": 4}'
    assert value["headers"] == {"type": "Paid"}
    assert value["message_id"] == str(parked[0].message_id)
    assert cqrs("edit", one, "--payload", "-", input="from a pipe").exit_code == 0
    assert "from a pipe" in cqrs("show", one).stdout


def test_an_edit_that_changes_nothing_is_refused(parked: list[Letter]) -> None:
    assert "nothing is to be changed" in cqrs("edit", str(parked[0].id)).stderr
    assert "write name=value" in cqrs("edit", str(parked[0].id), "--header", "type").stderr


def test_one_is_discarded_and_a_second_time_there_is_none(parked: list[Letter]) -> None:
    one = str(parked[0].id)
    assert "was discarded" in cqrs("discard", one).stdout
    again = cqrs("discard", one)
    assert (again.exit_code, "does not exist" in again.stderr) == (2, True)


def test_a_replay_says_what_it_needs_and_what_went_wrong(parked: list[Letter]) -> None:
    assert "say what is to be replayed" in cqrs("replay").stderr
    assert "say what is to be replayed" in cqrs("replay", "--key", "account-1").stderr
    failed = cqrs("replay", str(parked[0].id))
    assert failed.exit_code == 1
    assert "stays where it is" in failed.stderr
    assert json.loads(cqrs("show", str(parked[0].id), "--json").stdout)["attempts"] == 6
