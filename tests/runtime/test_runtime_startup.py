"""What is wrong at the start is said in a sentence by a process that ends: nobody has to read a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cqrs_fastapi import CQRS, ConfigurationError, Settings

ROOT = Path(__file__).parents[2]

WELL = """
from fastapi import FastAPI
from cqrs_fastapi import CQRS
cqrs = CQRS()
app = FastAPI()
cqrs.install(app)
"""

WRONG = """
from fastapi import FastAPI
from cqrs_fastapi import CQRS, Command, Event, Projection

class Unheard: ...
class Pay(Command[int]): ...
class Ship(Command[int]): ...
class Paid(Event): ...
class Empty(Projection): ...

cqrs = CQRS()
cqrs.register(Ship)
cqrs.projections.include(Empty)

@cqrs.handles(Pay)
async def pay(command: Pay, unheard: Unheard) -> int:
    return 1

@cqrs.on(Paid)
async def paid(event: Paid, unheard: Unheard) -> None: ...

app = FastAPI()
cqrs.install(app)
"""

RESOURCE = """
from dependency_injector import providers
from fastapi import FastAPI
from cqrs_fastapi import CQRS, CqrsContainer
from cqrs_fastapi.errors import ConfigurationError, MissingExtraError

async def lacking():
    raise MissingExtraError(feature="the ledger's codec", extra="msgspec")
    yield 1

class Container(CqrsContainer):
    lacking = providers.Resource(lacking)

cqrs = CQRS(container=Container())
app = FastAPI()
cqrs.install(app)
"""


def started(folder: Path, program: str, **environment: str) -> tuple[int, str]:
    """How a server that cannot start ends, and what it prints."""
    (folder / "program.py").write_text(program)
    ended = subprocess.run(
        [sys.executable, "-m", "uvicorn", "program:app", "--port", "0", "--app-dir", str(folder)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_all_wrong_registrations_are_numbered_in_one_error(tmp_path: Path) -> None:
    code, output = started(tmp_path, WRONG)
    assert code == 3
    assert "Traceback" not in output
    assert "4 registrations are wrong:" in output
    for number in range(1, 5):
        assert f"\n  {number}. " in output
    for part in ("Empty is built from no event", "Ship", "asks for Unheard"):
        assert part in output


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"CQRS_DATABASE_URL": "mysql://root:hush@localhost/x"}, "database_url begins with mysql://"),
        ({"CQRS_DATABASE_URL": "postgresql://u:hush@localhost/x"}, "write postgresql+asyncpg://"),
        ({"CQRS_DATABASE_URL": "what is this"}, "database_url is no URL; write"),
        ({"CQRS_DATABASE_URL": "sqlite+aiosqlite:///./not/there/x.db"}, "folder of database_url does not exist"),
        ({"CQRS_DATABASE_URL": "sqlite+aiosqlite://"}, "in-memory database"),
        ({"CQRS_BROKER_URL": "amqp://u:hush@localhost"}, "amqp:// is not supported by this version"),
        ({"CQRS_BROKER_URL": "carrier-pigeon://hush"}, "no broker speaks 'carrier-pigeon'"),
        ({"CQRS_BROKER_URL": "localhost:9092"}, "no broker speaks"),
        ({"CQRS_BROKER_URL": "kafka://"}, "kafka://"),
        ({"CQRS_DRAIN_TIMEOUT": "hush"}, "CQRS_DRAIN_TIMEOUT: "),
        ({"CQRS_RUN_IN_APP": "relay,hush"}, "CQRS_RUN_IN_APP"),
        ({"CQRS_SERVICE": "Hush Hush", "CQRS_POOL_SIZE": "0"}, "CQRS_POOL_SIZE: "),
    ],
    ids=lambda value: "+".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_one_sentence_without_a_traceback_or_a_password(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    code, output = started(tmp_path, WELL, **environment)
    assert code != 0
    assert "Traceback" not in output
    assert "hush" not in output.lower()
    assert output.count(sentence) == 1


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    code, output = started(tmp_path, RESOURCE)
    assert code != 0
    assert "Traceback" not in output
    assert "the ledger's codec needs an optional dependency; run: pip install 'cqrs-fastapi[msgspec]'" in output


@pytest.mark.anyio
async def test_a_worker_that_does_not_exist_is_refused_by_its_name(sqlite_url: str) -> None:
    cqrs = CQRS(settings=Settings(database_url=sqlite_url))
    with pytest.raises(ConfigurationError, match="no worker is called 'consume'; they are relay, consumer, scheduler"):
        async with cqrs.running(workers=("consume",)):  # type: ignore[arg-type]  # for whoever has no checker
            raise AssertionError("it must not start")
