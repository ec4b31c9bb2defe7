"""Forgetting a person from the shell."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cqrs_fastapi.cli.main import app

PROGRAM = """
from cqrs_fastapi import CQRS, Aggregate, Command, Event, Personal, Query, Repository, applies
from uuid import UUID


class Joined(Event, subject="member_id"):
    member_id: UUID
    email: Personal[str]


class Member(Aggregate):
    email: str = ""

    @applies
    def on_joined(self, event: Joined) -> None:
        self.email = event.email


class Join(Command[None]):
    id: UUID
    email: str


class EmailOf(Query[str]):
    id: UUID


cqrs = CQRS()


@cqrs.handles(Join)
async def join(command: Join, members: Repository[Member]) -> None:
    (await members.get_or_new(command.id)).record(Joined(member_id=command.id, email=command.email))


@cqrs.handles(EmailOf)
async def email_of(query: EmailOf, members: Repository[Member]) -> str:
    return (await members.get(query.id)).email
"""
ADA = "0189a7a0-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def members(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "club.py").write_text(PROGRAM)
    monkeypatch.setenv("CQRS_PERSONAL_DATA_KEYS", f"main:{base64.b64encode(bytes(32)).decode()}")


def cqrs(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def email() -> object:
    return json.loads(cqrs("send", "club:cqrs", "EmailOf", json.dumps({"id": ADA})).stdout)


def test_a_person_is_forgotten_and_the_report_is_printed() -> None:
    cqrs("send", "club:cqrs", "Join", json.dumps({"id": ADA, "email": "ada@example.org"}))
    assert email() == "ada@example.org"
    result = cqrs("forget", "club:cqrs", ADA)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"forgotten: {ADA}"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "key destroyed",
        "other processes may read until",
        "snapshots deleted",
        "rows deleted",
    ]
    assert email() == "(forgotten)"


def test_the_report_of_a_repetition_has_the_same_time_as_json() -> None:
    first, again = (json.loads(cqrs("forget", "club:cqrs", ADA, "--json").stdout) for _ in range(2))
    assert first["forgotten_at"] == again["forgotten_at"]
    assert again["snapshots"] == 0
    assert again["rows"] == {}


def test_a_program_without_personal_data_is_told_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CQRS_PERSONAL_DATA_KEYS")
    result = cqrs("forget", "shop:cqrs", ADA)
    assert result.exit_code == 2
    assert "nothing is encrypted in this application" in result.stderr
