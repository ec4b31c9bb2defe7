"""`make run` ends as the server ends: the signal reaches it, and nothing stays behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = f"""#!{sys.executable}
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("drained", flush=True)))
pathlib.Path("serving").write_text(" ".join(sys.argv[1:]))
signal.pause()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with a virtual environment of stand-ins, younger than pyproject.toml and so taken for ready."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    stand_in(tmp_path, "alembic", "#!/bin/sh\necho alembic $*\n")
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def stand_in(checkout: Path, name: str, script: str) -> None:
    program = checkout / ".venv" / "bin" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(script)
    program.chmod(0o755)


def test_sigterm_drains_the_server_before_make_ends(checkout: Path) -> None:
    stand_in(checkout, "python", SERVER)
    with subprocess.Popen(("make", "run", "PORT=9"), cwd=checkout, stdout=subprocess.PIPE, text=True) as make:
        deadline = time.monotonic() + 30
        serving = checkout / "serving"
        while not (serving.exists() and serving.read_text()):
            assert time.monotonic() < deadline, "the server was never started"
            time.sleep(0.05)
        make.send_signal(signal.SIGTERM)
        output, _ = make.communicate(timeout=30)
    assert output.splitlines()[-2:] == ["alembic upgrade head", "drained"]
    assert make.returncode == -signal.SIGTERM
    assert serving.read_text() == "-m example_app.entrypoints.serve --host 127.0.0.1 --port 9"


def test_a_server_that_fails_makes_make_fail(checkout: Path) -> None:
    stand_in(checkout, "python", "#!/bin/sh\nexit 3\n")
    ended = subprocess.run(("make", "run"), cwd=checkout, capture_output=True, check=False)
    assert ended.returncode == 2


def test_make_alone_lists_the_commands(checkout: Path) -> None:
    listed = subprocess.run(("make",), cwd=checkout, capture_output=True, text=True, check=True).stdout
    for command in ("setup", "run", "test", "check", "servers", "servers-stop", "bench", "load", "clean"):
        assert f"make {command} " in listed


def test_an_old_python_is_refused_in_words(checkout: Path) -> None:
    (checkout / ".venv" / ".ready").unlink()
    stand_in(checkout, "python2", "#!/bin/sh\nexit 1\n")
    options = ("make", "setup", "PYTHON=.venv/bin/python2")
    refused = subprocess.run(options, cwd=checkout, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "is older than 3.11; write: make setup PYTHON=" in refused.stderr
