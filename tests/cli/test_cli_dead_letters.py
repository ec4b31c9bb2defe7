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


def cqrs(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["dead-letters", "shop:cqrs", *arguments], color=True)  # as to a terminal


def test_without_dead_letters_it_says_so(project: Path) -> None:
    assert cqrs().stdout == "no dead letters\n"


def test_the_newest_come_first_with_all_that_one_needs_to_know(parked: list[Letter]) -> None:
    result = cqrs("--limit", "2")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith("0000")] == [
        str(parked[2].id),
        str(parked[1].id),
    ]
    for expected in ("2026-01-03T12:00:00+00:00", "send_mail", "accounts/2/43", "4 bytes", "5 attempts", "2 of 3"):
        assert expected in result.stdout


def test_nothing_that_strangers_wrote_steers_the_terminal(parked: list[Letter]) -> None:
    shown = [cqrs(), *(cqrs("--show", str(one.id)) for one in parked)]
    assert all(result.exit_code == 0 for result in shown)
    assert not any("\x1b" in result.stdout for result in shown)


def test_programs_get_json(parked: list[Letter]) -> None:
    rows = json.loads(cqrs("--json").stdout)
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
    }


def test_one_is_shown_with_its_headers_and_payload(parked: list[Letter]) -> None:
    text = cqrs("--show", str(parked[0].id)).stdout
    assert "type: Deposited" in text
    assert '{"amount": 3}' in text
    assert "key: account-1" in text
    assert "base64 /wA=" in cqrs("--show", str(parked[1].id)).stdout

    value = json.loads(cqrs("--show", str(parked[1].id), "--json").stdout)
    assert base64.b64decode(value["payload_base64"]) == b"\xff\x00"
    assert value["headers"]["type"] == "Deposited"


def test_an_unknown_id_is_refused(parked: list[Letter]) -> None:
    result = cqrs("--show", str(UUID(int=9)))
    assert result.exit_code == 2
    assert "no dead letter has the id" in result.stderr
