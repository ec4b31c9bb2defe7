"""Reads what was written line by line during a run: the clients' history, the faults, the ledger outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.messaging_checker.evidence import Call, Command, Entry, Fault, Terms

HISTORY, FAULTS, CALLS = "history.jsonl", "faults.jsonl", "calls.jsonl"
TERMS, UNFINISHED, VERDICT = "terms.json", "unfinished.jsonl", "verdict.json"


def terms(folder: Path) -> Terms:
    told = json.loads((folder / TERMS).read_text())
    return Terms(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()})


def commands(folder: Path) -> list[Command]:
    """Each invocation with all that was heard of it. An answer to what was never asked is a command of no parts."""
    asked: dict[tuple[int, int], dict[str, Any]] = {}
    again: list[dict[str, Any]] = []
    heard: dict[tuple[int, int], list[str]] = {}
    for line in _lines(folder / HISTORY):
        name = line["client"], line["seq"]
        if line["what"] != "invoke":
            heard.setdefault(name, []).append(line["what"])
        elif name in asked:
            again.append(line)
        else:
            asked[name] = line
    unasked = [{"client": client, "seq": seq, "key": -1, "parts": 0} for client, seq in heard.keys() - asked.keys()]
    return [_command(line, heard) for line in (*asked.values(), *again, *unasked)]


def _command(line: dict[str, Any], heard: dict[tuple[int, int], list[str]]) -> Command:
    outcomes = tuple(heard.get((line["client"], line["seq"]), ()))
    return Command(line["client"], line["seq"], line["key"], line["parts"], outcomes)


def faults(folder: Path) -> list[Fault]:
    """A fault without an end lasted until the end of the run."""
    begun: dict[int, dict[str, Any]] = {}
    ended: dict[int, float] = {}
    last = 0.0
    for line in _lines(folder / FAULTS):
        last = max(last, line["at"])
        if line["what"] == "begin":
            begun[line["id"]] = line
        else:
            ended[line["id"]] = line["at"]
    return [
        Fault(line["kind"], line["role"], line["at"], ended.get(number, last), line["count"])
        for number, line in begun.items()
    ]


def calls(folder: Path) -> list[Call]:
    return [
        Call(line["handler"], line["message_id"], entry_of(line["entry"]), line["answered"])
        for line in _lines(folder / CALLS)
    ]


def unfinished(folder: Path) -> list[str]:
    return [line["what"] for line in _lines(folder / UNFINISHED)]


def entry_of(data: dict[str, Any]) -> Entry:
    return Entry(data["client"], data["seq"], data["part"], data["key"], data["number"])


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for line in file.read_text().splitlines():
            yield json.loads(line)
