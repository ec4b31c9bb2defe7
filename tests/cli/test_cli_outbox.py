"""The outbox and the topics from the shell."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from cqrs_fastapi.cli.main import app
from cqrs_fastapi.cli.target import load
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.runtime.application import Application


@pytest.fixture
def application(project: Path) -> Application:
    return load("shop:cqrs")


@pytest.fixture
def waiting(application: Application) -> UUID:
    """The id of the one message that waits; its payload would move a terminal's cursor."""

    async def add() -> UUID:
        async with application.running(workers=()), application.database.session() as session:
            outbox = application.outbox(session)
            message_id = await outbox.add_raw("mail", b"a\x1b[31mb", key="k", headers={"own": "x"})
            await session.commit()
            return message_id

    return asyncio.run(add())


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["outbox", *arguments])
    return done.exit_code, done.output


def test_what_waits_is_listed_for_people_and_for_programs(waiting: UUID) -> None:
    status, told = run("list", "shop:cqrs")
    assert status == 0
    assert str(waiting) in told
    assert "1 of 1 messages" in told
    _, found = run("list", "shop:cqrs", "--topic", "mail", "--json")
    [one] = json.loads(found)
    assert (one["id"], one["topic"], one["key"], one["attempts"], one["bytes"]) == (str(waiting), "mail", "k", 0, 7)
    assert json.loads(run("list", "shop:cqrs", "--key", "other", "--older-than", "PT1H", "--json")[1]) == []
    assert run("list", "shop:cqrs", "--older-than", "soon")[0] == 2


def test_one_is_shown_with_escapes_where_a_terminal_would_obey(waiting: UUID) -> None:
    status, told = run("show", "shop:cqrs", str(waiting))
    assert status == 0
    assert "a\\x1b[31mb" in told
    assert "own: x" in told
    assert json.loads(run("show", "shop:cqrs", str(waiting), "--json")[1])["headers"]["own"] == "x"


def test_one_is_edited_retried_and_skipped(waiting: UUID, project: Path) -> None:
    (project / "payload").write_bytes(b"better")
    arguments = ("--topic", "post", "--payload", "payload", "--header", "own=", "--header", "more=1")
    assert run("edit", "shop:cqrs", str(waiting), *arguments)[0] == 0
    shown = json.loads(run("show", "shop:cqrs", str(waiting), "--json")[1])
    assert (shown["topic"], shown["payload"], shown["headers"]["more"]) == ("post", "better", "1")
    assert "own" not in shown["headers"]
    assert run("edit", "shop:cqrs", str(waiting))[0] == 2
    assert run("retry", "shop:cqrs", str(waiting))[0] == 0
    assert run("skip", "shop:cqrs", str(waiting), "--reason", "enough")[0] == 0
    assert run("show", "shop:cqrs", str(waiting))[0] == 1
    letters = CliRunner().invoke(app, ["dead-letters", "list", "shop:cqrs"]).output
    assert "skipped: enough" in letters


def test_what_is_not_there_is_status_1_and_a_sentence(waiting: UUID) -> None:
    status, told = run("retry", "shop:cqrs", str(uuid4()))
    assert status == 1
    assert "may have been sent meanwhile" in told


def test_the_owner_is_told_and_changed(project: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CQRS_DATABASE_URL", postgres_url)
    application = load("shop:cqrs")

    async def migrate() -> None:
        async with application.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
        await application.database.close()

    asyncio.run(migrate())
    assert run("owner", "shop:cqrs") == (0, "relay\n")
    assert run("owner", "shop:cqrs", "debezium")[0] == 0
    assert run("owner", "shop:cqrs") == (0, "debezium\n")
    assert run("clean", "shop:cqrs", "--older-than", "PT1H") == (0, "0 messages deleted\n")
    assert "they will send 0 messages" in run("owner", "shop:cqrs", "relay")[1]
    assert run("clean", "shop:cqrs")[0] == 2


def test_topics_of_a_broker_in_memory_need_nothing(project: Path) -> None:
    for command in ("check", "create"):
        done = CliRunner().invoke(app, ["topics", command, "shop:cqrs"])
        assert done.exit_code == 0
        assert "memory:// makes topics as they are used" in done.output
