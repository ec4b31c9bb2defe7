"""What no module of the package may contain."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cqrs_fastapi"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 300

GENERATOR = "mediation/compiler.py"
"""Writes the function of each pipeline once, at the start, from sources that are all its own."""

EXCEPTIONS = {
    # The command line is given `module:cqrs` by the operator; nothing that was received is ever imported.
    "cli/target.py": {"imports importlib", "uses importlib.import_module"},
}

BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "importlib", "runpy", "imp"}
ALLOWED_IMPORTS = {"importlib.metadata", "importlib.resources"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def problems(name: str, source: str) -> list[str]:
    tree = ast.parse(source)
    found = [f"imports {module}" for module in imported(tree) if _is_banned(module)]
    found += [f"imports the package's root by {module}" for module in imported(tree) if module in {"cqrs_fastapi", "."}]
    found += [f"imports relatively by {module}" for module in imported(tree) if module.startswith(".")]
    allowed = {"exec", "compile"} if name == GENERATOR else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if called in BANNED_CALLS - allowed:
                found.append(f"calls {called}() in line {node.lineno}")
        if (
            isinstance(node, ast.Attribute)
            and node.attr in {"import_module", "loads"}
            and _root(node) in BANNED_MODULES
        ):
            found.append(f"uses {_root(node)}.{node.attr}")
    return found


def _is_banned(module: str) -> bool:
    return module not in ALLOWED_IMPORTS and module.partition(".")[0] in BANNED_MODULES


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_and_executes_nothing_by_name(path: Path) -> None:
    allowed = EXCEPTIONS.get(name_of(path), set())
    assert [one for one in problems(name_of(path), path.read_text()) if one not in allowed] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import importlib",
        "from importlib import import_module",
        "import cqrs_fastapi",
        "from cqrs_fastapi import CQRS",
        "from . import errors",
        "from .errors import CqrsError",
        "eval('1')",
        "exec('1')",
        "__import__('os')",
        "def f():\n    import shelve",
    ],
)
def test_each_banned_form_is_found(source: str) -> None:
    assert problems("somewhere.py", source) != []


def test_the_generator_is_the_only_one_that_executes_a_source() -> None:
    executing = [name_of(path) for path in MODULES if "calls exec()" in " ".join(problems("", path.read_text()))]
    assert executing == [GENERATOR]


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_every_folder_with_modules_is_a_package() -> None:
    assert sorted({path.parent for path in MODULES if not (path.parent / "__init__.py").exists()}) == []
