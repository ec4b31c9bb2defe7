"""What `import cqrs_fastapi` offers, and that it does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import cqrs_fastapi

ROOT = Path(__file__).parents[2]

AUDITED = """
import logging, os, sys
files, sockets = [], []

def watch(event, arguments):
    if event == "open":
        files.append(str(arguments[0]))
    elif event.startswith("socket."):
        sockets.append(event)
    elif event in ("subprocess.Popen", "os.system", "os.mkdir", "os.remove", "sqlite3.connect", "os.rename"):
        sockets.append(event)

root = logging.getLogger()
before = (root.level, list(root.handlers), logging.root.manager.disable)
import threading
threads = threading.active_count()
environment = dict(os.environ)
import structlog
configured = structlog.is_configured()
sys.addaudithook(watch)
import cqrs_fastapi
assert (root.level, list(root.handlers), logging.root.manager.disable) == before, "logging was configured"
assert structlog.is_configured() == configured, "structlog was configured"
assert logging.getLogger("cqrs_fastapi").level == logging.NOTSET
assert threading.active_count() == threads, "a thread was started"
assert dict(os.environ) == environment, "the environment was changed"
print("SOCKETS", sockets)
for file in files:
    print("FILE", file)
"""


def run(program: str, folder: Path, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def test_the_surface_is_listed_sorted_and_complete() -> None:
    listed = cqrs_fastapi.__all__
    constants = sorted(name for name in listed if name.isupper())
    classes = sorted(name for name in listed if name not in constants and name[0].isupper())
    functions = sorted(name for name in listed if name[0].islower())
    assert listed == [*constants, *classes, *functions]
    assert len(set(listed)) == len(listed)
    offered = {
        name
        for name, value in vars(cqrs_fastapi).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }
    assert offered == set(listed)


def test_importing_opens_nothing_but_modules(tmp_path: Path) -> None:
    output = run(AUDITED, tmp_path).splitlines()
    assert output[0] == "SOCKETS []"
    library = (str(ROOT / "cqrs_fastapi"), sys.prefix, sys.base_prefix, "/usr/lib", "/usr/share", "/etc/mime.types")
    opened = {line.removeprefix("FILE ") for line in output[1:]}
    others = {
        file
        for file in opened
        if not file.endswith((".py", ".pyc", ".so")) and not file.startswith(library) and not file.isdigit()
    }
    assert others == set()
    assert list(tmp_path.iterdir()) == []


def test_a_watched_import_would_show_what_it_opens(tmp_path: Path) -> None:
    program = AUDITED.replace("import cqrs_fastapi\n", "open('x.txt', 'w'); import socket; socket.socket()\n")
    output = run(program, tmp_path, PYTHONWARNINGS="ignore")
    assert "FILE x.txt" in output
    assert "socket.__new__" in output


def test_the_environment_is_read_when_settings_are_made_and_not_before(tmp_path: Path) -> None:
    program = """
import os
os.environ.update(CQRS_SERVICE="before", CQRS_DATABASE_URL="nonsense", CQRS_POOL_SIZE="nonsense")
from fastapi import FastAPI
from cqrs_fastapi import CQRS, Settings
cqrs = CQRS()
cqrs.install(FastAPI())
os.environ.update(CQRS_SERVICE="after", CQRS_POOL_SIZE="3")
assert (cqrs.settings.service, cqrs.settings.pool_size) == ("after", 3)
os.environ["CQRS_SERVICE"] = "late"
assert cqrs.settings.service == "after"
assert Settings().service == "late"
"""
    assert run(program, tmp_path) == ""


def test_the_drivers_of_brokers_are_not_loaded_before_they_are_needed(tmp_path: Path) -> None:
    program = """
import sys
import cqrs_fastapi
print(sorted({"aiokafka", "aio_pika", "aiobotocore", "msgspec", "strawberry"} & set(sys.modules)))
"""
    assert run(program, tmp_path) == "[]\n"
