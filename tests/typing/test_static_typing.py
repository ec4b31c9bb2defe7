import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))

Lines = set[tuple[str, int]]


def marked() -> Lines:
    """The lines that say of themselves that they are wrong."""
    return {
        (path.name, number)
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if line.rstrip().endswith("# E:")
    }


def found_by_mypy() -> Lines:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-incremental", *map(str, FILES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    errors = re.findall(r"^(.+?):(\d+): error: ", done.stdout, re.MULTILINE)
    return {(Path(path).name, int(line)) for path, line in errors if Path(path).parent.name == HERE.name}


def found_by_pyright() -> Lines:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, FILES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    return {
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1)
        for found in diagnostics
        if found["severity"] == "error"
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("checker", [found_by_mypy, found_by_pyright], ids=["mypy", "pyright"])
def test_a_type_checker_accepts_what_is_right_and_refuses_what_is_marked_as_wrong(checker: object) -> None:
    assert callable(checker)
    found, expected = checker(), marked()
    assert {"refused though right": sorted(found - expected), "accepted though wrong": sorted(expected - found)} == {
        "refused though right": [],
        "accepted though wrong": [],
    }
