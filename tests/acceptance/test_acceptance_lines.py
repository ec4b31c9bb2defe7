"""What is promised, part by part, of one program that uses them all, as processes: embedded, and on PostgreSQL and
Kafka with sidecars. Containers and the example app have tests of their name in `tests/containers` and beside this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.acceptance.apps.bank import tables
from tests.acceptance.programs import BIN, ROOT, Program, Stage, free_port, until_ready
from tools.servers.sql import create_database, drop_database

LIMITS = {"CQRS_MAX_BODY_BYTES": "20000"}
TARGET = "tests.acceptance.apps.bank"


class Bank:
    """The program, from outside."""

    def __init__(self, stage: Stage, port: int, web: Program, workers: list[Program]) -> None:
        self.stage, self.port, self.web, self.workers = stage, port, web, workers

    def ask(self, method: str, path: str, body: object = None, *, raw: bytes | None = None) -> tuple[int, str]:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, headers, method=method
        )  # loopback
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # loopback
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until(self, condition: Callable[[], bool], *, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "\n".join(one.printed()[-2000:] for one in [self.web, *self.workers])
            time.sleep(0.05)

    def seen(self, what: str) -> list[str]:
        status, body = self.ask("GET", "/seen")
        assert status == 200, body
        return [line.partition(" ")[2] for line in json.loads(body) if line.startswith(f"{what} ")]


async def create_tables(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
    await engine.dispose()


@contextlib.contextmanager
def on_the_embedded_default(folder: Path) -> Iterator[Bank]:
    url = f"sqlite+aiosqlite:///{folder / 'bank.db'}"
    stage, port = Stage(folder, {"CQRS_DATABASE_URL": url, "CQRS_SERVICE": "bank", **LIMITS}), free_port()
    asyncio.run(create_tables(url))
    with stage.running(*stage.uvicorn(f"{TARGET}:app", port)) as web:
        until_ready(web, port)
        yield Bank(stage, port, web, [])


@contextlib.contextmanager
def on_postgresql_and_kafka(folder: Path, database_url: str, kafka: str) -> Iterator[Bank]:
    service = f"bank-{uuid4().hex[:8]}"
    environment = {
        "CQRS_DATABASE_URL": database_url,
        "CQRS_BROKER_URL": f"kafka://{kafka}",
        "CQRS_SERVICE": service,
        **LIMITS,
    }
    stage, port = Stage(folder, environment), free_port()
    asyncio.run(create_tables(database_url))
    stage.run(str(BIN / "alembic"), "upgrade", "head")
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(stage.running(*stage.uvicorn(f"{TARGET}:app", port), CQRS_RUN_IN_APP=""))
        commands = ("relay", "consume", "schedule")
        workers = [
            stack.enter_context(stage.running(str(BIN / "cqrs"), name, f"{TARGET}:cqrs", PYTHONPATH=str(ROOT)))
            for name in commands
        ]
        until_ready(web, port)
        yield Bank(stage, port, web, workers)


@pytest.fixture(scope="module", params=["embedded", "servers"])
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """One start serves all of this module: a process is dear, and together they are what is promised."""
    folder = tmp_path_factory.mktemp("bank")
    if request.param == "embedded":
        with on_the_embedded_default(folder) as bank:
            yield bank
    else:
        server, kafka = request.getfixturevalue("postgres_server"), request.getfixturevalue("real_kafka")
        database = create_database(server)
        try:
            with on_postgresql_and_kafka(folder, database, kafka) as bank:
                yield bank
        finally:
            drop_database(server, database)


def test_project_has_a_schema_that_comes_and_goes_by_alembic(database_url: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"CQRS_DATABASE_URL": database_url})
    for command in (("upgrade", "head"), ("check",), ("downgrade", "base"), ("upgrade", "head"), ("check",)):
        stage.run(str(BIN / "alembic"), *command)


def test_messages_in_three_forms_arrive_once(bank: Bank) -> None:
    assert bank.ask("POST", "/notes/hello")[0] == 200  # a dataclass command, a dataclass event on a topic
    assert bank.ask("POST", "/published/7")[0] == 200  # a msgspec struct without a topic
    account = str(uuid4())
    assert bank.ask("POST", "/deposits", {"account": account, "amount": 5}) == (200, "5")  # a pydantic event

    bank.until(lambda: bank.seen("note").count("hello") == 1 and bank.seen("count").count("7") == 1)
    bank.until(lambda: bank.ask("GET", f"/totals/{account}") == (200, "5"))


def test_mediation_wraps_and_streams(bank: Bank) -> None:
    """Behaviors of the application, the map and the binding, outermost first."""
    assert bank.ask("POST", "/notes/wrapped") == (200, '"app(map(binding(noted wrapped)))"')
    assert bank.ask("GET", "/numbers/5") == (200, "0\n1\n2\n3\n4\n")


def test_dependency_injection_gives_what_lives_as_long_as_it_should(bank: Bank) -> None:
    """A Singleton and a generator to one handler, a Factory with an open Resource and the session to the other."""
    status, answer = bank.ask("GET", "/lifetimes")
    assert status == 200
    first = json.loads(answer)
    second = json.loads(bank.ask("GET", "/lifetimes")[1])
    assert first["rates_are_open"] is second["rates_are_open"] is True
    assert first["greeting"] == second["greeting"]
    assert first["rates"] == second["rates"]
    assert first["fees"] != second["fees"]
    assert first["trail"] != second["trail"]
    assert first["trail_of_the_nested_request"] == first["trail"]


def test_unit_of_work_event_store_and_outbox_decide_on_what_is_stored(bank: Bank) -> None:
    account = str(uuid4())
    answers = [bank.ask("POST", "/deposits", {"account": account, "amount": amount})[1] for amount in (1, 2, 3)]
    assert answers == ["1", "3", "6"]
    status, body = bank.ask("POST", "/deposits", {"account": account, "amount": -7})
    assert (status, json.loads(body)["code"]) == (409, "overdrawn")
    assert bank.ask("POST", "/deposits", {"account": account, "amount": -6}) == (200, "0")


def test_relay_and_consumer_bring_every_event_once_and_in_order(bank: Bank) -> None:
    account = str(uuid4())
    for amount in range(1, 11):
        assert bank.ask("POST", "/deposits", {"account": account, "amount": amount})[0] == 200
    bank.until(lambda: bank.ask("GET", f"/totals/{account}") == (200, "55"))
    assert bank.seen(account) == [str(amount) for amount in range(1, 11)]


def test_fastapi_tells_its_health_and_refuses_bad_input_with_a_reason(bank: Bank) -> None:
    assert bank.ask("GET", "/health/live")[0] == bank.ask("GET", "/health/ready")[0] == 200
    account = str(uuid4())
    cases: list[tuple[bytes, int]] = [
        (b"{", 400),
        (b"", 422),
        (b"[]", 422),
        (b'{"account": 1, "amount": 1}', 422),
        (json.dumps({"account": account, "amount": 1, "extra": 1}).encode(), 422),
        (b'{"account": "' + b"x" * 30_000 + b'"}', 413),
        (b"[" * 5000, 400),
    ]
    for raw, expected in cases:
        status, body = bank.ask("POST", "/deposits", raw=raw)
        assert status == expected, (raw[:40], status, body[:200])
        assert {"code", "title", "status"} <= json.loads(body).keys()
        assert "Traceback" not in body
    assert bank.ask("GET", "/nowhere")[0] == 404


def test_one_periodic_job_ticks_once_a_second(bank: Bank) -> None:
    bank.until(lambda: len(bank.seen("tick")) >= 3)
    ticks = bank.seen("tick")
    assert len(set(ticks)) == len(ticks)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", tick) for tick in ticks)


def test_every_process_stops_in_order(bank: Bank) -> None:
    """The last one here: nothing serves after it."""
    assert [worker.stop() for worker in bank.workers] == [0] * len(bank.workers)
    bank.web.stop()
    assert "Application shutdown complete" in bank.web.printed()
