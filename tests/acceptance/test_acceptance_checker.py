"""The judge is judged: each fault that is planted is found."""

from __future__ import annotations

import ast
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checker import HANDLERS, Remains, faults, read_sqlite

COMMANDS = [f"c{number}" for number in range(6)]


def good() -> Remains:
    events = [(f"Ledger-{number % 2}", number // 2 + 1, command) for number, command in enumerate(COMMANDS)]
    effects = [(handler, command) for command in COMMANDS for handler in HANDLERS]
    return Remains(events, effects, ["10:00", "10:01"])


def test_what_is_well_has_no_faults() -> None:
    assert faults(good(), COMMANDS) == []


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (lambda r: r.events.pop(), "acknowledged and not stored: c5"),
        (lambda r: r.events.append(("Ledger-1", 4, "c5")), "stored 2 times: c5"),
        (lambda r: r.events.__delitem__(0), "Ledger-0 has versions [2, 3]"),
        (lambda r: r.effects.remove(("writer", "c2")), "writer has 0 effects of c2"),
        (lambda r: r.effects.append(("overview", "c3")), "overview has 2 effects of c3"),
        (lambda r: r.effects.append(("writer", "ghost")), "phantom: writer of ghost"),
        (lambda r: r.effects.reverse(), "writer saw Ledger-0 in another order"),
        (lambda r: r.ticks.append("10:00"), "tick run 2 times: 10:00"),
        (lambda r: setattr(r, "outbox", 3), "3 messages still wait in the outbox"),
        (lambda r: setattr(r, "dead_letters", 1), "1 dead letters"),
    ],
)
def test_every_planted_fault_is_named(plant: Callable[[Remains], object], sentence: str) -> None:
    remains = good()
    plant(remains)
    assert sentence in faults(remains, COMMANDS)


def test_faults_planted_in_a_file_are_found_there(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(
            "CREATE TABLE cqrs_events (position INTEGER PRIMARY KEY, stream, version, data);"
            "CREATE TABLE effects (n INTEGER PRIMARY KEY, handler, command);"
            "CREATE TABLE ticks (n INTEGER PRIMARY KEY, tick);"
            "CREATE TABLE cqrs_outbox (id); CREATE TABLE cqrs_dead_letters (id);"
            "CREATE TABLE cqrs_leases (name, owner); CREATE TABLE cqrs_checkpoints (partition, position);"
        )
        for stream, version, command in good().events:
            connection.execute(
                "INSERT INTO cqrs_events (stream, version, data) VALUES (?, ?, json_object('command', ?))",
                (stream, version, command),
            )
        connection.executemany("INSERT INTO effects (handler, command) VALUES (?, ?)", good().effects)
    assert faults(read_sqlite(str(file)), COMMANDS) == []
    with sqlite3.connect(file) as connection:
        connection.execute("DELETE FROM effects WHERE handler = 'writer' AND command = 'c1'")
        connection.execute("INSERT INTO effects (handler, command) VALUES ('overview', 'c4')")
    connection.close()
    found = faults(read_sqlite(str(file)), COMMANDS)
    assert sorted(found) == ["overview has 2 effects of c4", "writer has 0 effects of c1"]


def test_the_checker_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse((Path(__file__).parent / "checker.py").read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).partition(".")[0] for name in names} <= sys.stdlib_module_names
