"""Commands and queries from the shell."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from cqrs_fastapi.cli.main import app

pytestmark = pytest.mark.usefixtures("project")

Cqrs = Callable[..., Any]


def cqrs(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_command_is_sent_and_its_result_printed_as_json() -> None:
    account = str(uuid4())
    for expected in (3, 6):
        result = cqrs("send", "shop:cqrs", "Deposit", json.dumps({"account_id": account, "amount": 3}))
        assert result.exit_code == 0
        assert json.loads(result.stdout) == expected


def test_a_query_is_answered() -> None:
    result = cqrs("send", "shop:cqrs", "shop.Rate", '{"currency": "EUR"}')
    assert json.loads(result.stdout) == {"EUR": 1.5}


def test_an_override_reaches_what_the_command_line_sends(project: Path) -> None:
    sys.path.insert(0, str(project))
    shop = importlib.import_module("shop")

    class Fixed(shop.Rates):  # type: ignore[misc, name-defined]  # a class of a module that the test has written
        def of(self, currency: str) -> float:
            return 42.0

    with shop.cqrs.override(shop.Rates).by(Fixed()):
        overridden = cqrs("send", "shop:cqrs", "Rate", '{"currency": "EUR"}')
    plain = cqrs("send", "shop:cqrs", "Rate", '{"currency": "EUR"}')

    assert json.loads(overridden.stdout) == {"EUR": 42.0}
    assert json.loads(plain.stdout) == {"EUR": 1.5}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["Nothing"], 2, "no command or query is called 'Nothing'; there are: Deposit, Rate, Refuse"),
        (["Deposit", "{}"], 2, "account_id: Field required"),
        (["Deposit", "{"], 2, "Invalid JSON"),
        (["Deposit", '{"account_id": "secret-text", "amount": 1}'], 2, "account_id"),
        (["Deposit", "[" * 100], 2, "deeper than 64"),
        (["Refuse"], 1, "the shop is closed"),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(arguments: list[str], status: int, says: str) -> None:
    result = cqrs("send", "shop:cqrs", *arguments)

    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith("cqrs: ")
    assert says in result.stderr
    assert "secret-text" not in result.stderr


def test_the_version_is_printed() -> None:
    result = cqrs("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("cqrs-fastapi")
