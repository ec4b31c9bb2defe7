"""Commands on the pages exist, with the options and variables that are shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from docs_pages import ROOT, Block, blocks, name_of, pages

from cqrs_fastapi import Settings

_ASSIGNMENT = re.compile(r"(?P<name>[A-Z_]+)=.*")
_OURS = {f"CQRS_{field.upper()}" for field in Settings.model_fields}

WITH_COMMANDS = [block for page in pages() for block in blocks(page, "bash")]


def commands_of(block: Block) -> Iterator[list[str]]:
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def what_is_wrong(words: list[str]) -> str | None:
    """None for a command that exists."""
    words = words[1:] if words[0] == "export" else words
    while words and (assigned := _ASSIGNMENT.fullmatch(words[0])):
        if assigned["name"].startswith("CQRS_") and assigned["name"] not in _OURS:
            return f"there is no setting {assigned['name']}"
        words = words[1:]
    if not words:
        return None
    check = _CHECKS.get(words[0])
    return f"{words[0]} is not known here" if check is None else check(words[1:])


def _make(words: list[str]) -> str | None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing = [word for word in words if "=" not in word and word not in targets]
    return f"make has no {missing[0]}" if missing else None


@cache
def _help(*command: str) -> str | None:
    """The help of a command; None if there is no such command."""
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _options_missing(words: list[str], help_text: str) -> str | None:
    missing = [word for word in words if word.startswith("-") and word.partition("=")[0] not in help_text]
    return f"{missing[0]} is no option" if missing else None


def _with_subcommand(*command: str) -> Callable[[list[str]], str | None]:
    def check(words: list[str]) -> str | None:
        help_text = _help(*command, words[0])
        if help_text is not None and "COMMAND [ARGS]" in help_text:
            return _with_subcommand(*command, words[0])(words[1:])
        return f"there is no {words[0]}" if help_text is None else _options_missing(words[1:], help_text)

    return check


def _uvicorn(words: list[str]) -> str | None:
    if not re.fullmatch(r"[\w.]+:\w+", words[0]):
        return f"{words[0]} names no application"
    return _options_missing(words[1:], _help("uvicorn") or "")


def _compose(words: list[str]) -> str | None:
    """There is no engine to ask; what can be known is which services there are."""
    if words[0] != "compose" or words[1] not in {"up", "down", "logs", "exec", "run", "ps"}:
        return f"docker {' '.join(words[:2])} is not known here"
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    missing = [word for word in words[2:] if not word.startswith("-") and word not in services]
    return f"there is no service {missing[0]}" if missing else None


def _pip(words: list[str]) -> str | None:
    packages = [word for word in words[1:] if not word.startswith("-")]
    ours = [word for word in packages if re.fullmatch(r"(cqrs-fastapi|\.)(\[[a-z,]+\])?", word)]
    return None if words[0] == "install" and packages == ours else f"pip {' '.join(words)} is not known here"


def _python(words: list[str]) -> str | None:
    """A module of this project, or a file of it."""
    if words[0] == "-m":
        path = ROOT / words[1].replace(".", "/")
        return None if path.with_suffix(".py").exists() or (path / "__main__.py").exists() else f"no {words[1]}"
    return None if (ROOT / words[0]).exists() else f"there is no {words[0]}"


_CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "make": _make,
    "cqrs": _with_subcommand("cqrs_fastapi.cli"),
    "alembic": _with_subcommand("alembic"),
    "uvicorn": _uvicorn,
    "docker": _compose,
    "pip": _pip,
    "python": _python,
    "curl": lambda _: None,
    "cd": lambda _: None,
    "git": lambda _: None,
}


@pytest.mark.parametrize("block", WITH_COMMANDS, ids=lambda block: block.place)
def test_the_commands_of_a_block_exist(block: Block) -> None:
    wrong = {" ".join(words): problem for words in commands_of(block) if (problem := what_is_wrong(words))}
    assert wrong == {}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_variable_that_a_page_names_is_a_setting(page: Path) -> None:
    named = set(re.findall(r"\bCQRS_[A-Z_]*[A-Z]\b", page.read_text())) - {"CQRS_REQUIRE_SERVERS"}
    assert named <= _OURS


@pytest.mark.parametrize(
    "line",
    [
        "make nothing-of-this-kind",
        "cqrs replay app:cqrs",
        "cqrs relay app:cqrs --prot 9001",
        "cqrs schema lokc app:cqrs",
        "cqrs schema check app:cqrs --fiel x",
        "alembic upgarde head",
        "CQRS_DATABSE_URL=x uvicorn app:app",
        "uvicorn app",
        "docker compose logs nobody",
        "python -m example_app.nothing",
        "rm -rf build",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    assert what_is_wrong(shlex.split(line)) is not None
