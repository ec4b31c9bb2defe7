"""An application starts, serves what it can and recovers by itself while its database or broker is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from runtime_support import Note, Noted, outbox_is_empty, prepare, rows, settings_for, until
from sqlalchemy import make_url
from tcp_proxy import TcpProxy

from cqrs_fastapi import CQRS, MediatorDep, UnitOfWork
from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.errors import SchemaBehindError, UnavailableError

pytestmark = pytest.mark.anyio


def assembled(url: str, **given: Any) -> CQRS:
    cqrs = CQRS(settings=settings_for(url, pool_timeout="PT2S"), **given)
    cqrs.register(Noted)

    @cqrs.handles(Note)
    async def note(command: Note, unit: UnitOfWork) -> str:
        unit.publish(Noted(text=command.text))
        return command.text

    return cqrs


def served(cqrs: CQRS) -> httpx.AsyncClient:
    """A client of an app that lives inside of a running application."""
    app = FastAPI()
    cqrs.install(app)

    @app.post("/notes")
    async def post(command: Note, mediator: MediatorDep) -> str:
        return await mediator.send(command)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


async def checks_of(client: httpx.AsyncClient) -> tuple[int, dict[str, bool], dict[str, str]]:
    answer = await client.get("/health/ready")
    checks = answer.json()["checks"]
    return (
        answer.status_code,
        {check["name"]: check["ok"] for check in checks},
        {check["name"]: check["detail"] for check in checks},
    )


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[TcpProxy]:
    """A door, still shut, in front of a database that has the schema."""
    cqrs = assembled(postgres_url)
    await prepare(cqrs)
    url = make_url(postgres_url)
    proxy = TcpProxy(url.host or "127.0.0.1", url.port or 5432)
    yield proxy
    await proxy.shut()


@pytest.fixture
def url(postgres_url: str, proxy: TcpProxy) -> str:
    through = make_url(postgres_url).set(host="127.0.0.1", port=proxy.port)
    return through.render_as_string(hide_password=False)


async def test_an_application_starts_without_its_database_and_works_when_it_comes(url: str, proxy: TcpProxy) -> None:
    cqrs = assembled(url)
    async with cqrs.running(), served(cqrs) as client:
        status, ok, detail = await checks_of(client)
        assert (status, ok["database"], detail["database"]) == (503, False, "does not answer")
        assert ok["broker"]
        refused = await client.post("/notes", json={"text": "too early"})
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")

        await proxy.open()
        await until(lambda: _is_ready(client))
        assert (await client.post("/notes", json={"text": "now"})).status_code == 200
        await until(lambda: outbox_is_empty(cqrs))


async def test_a_database_that_goes_away_and_comes_back_is_found_again(url: str, proxy: TcpProxy) -> None:
    await proxy.open()
    cqrs = assembled(url)
    seen: list[str] = []

    @cqrs.on(Noted, name="reader")
    async def read(event: Noted) -> None:
        seen.append(event.text)

    async with cqrs.running(), served(cqrs) as client:
        assert (await client.post("/notes", json={"text": "before"})).status_code == 200
        await until(lambda: outbox_is_empty(cqrs))
        await proxy.shut()
        status, ok, _ = await checks_of(client)
        assert (status, ok["database"]) == (503, False)
        assert (await client.post("/notes", json={"text": "while away"})).status_code == 503
        await proxy.open()
        await until(lambda: _is_ready(client))
        assert (await client.post("/notes", json={"text": "after"})).status_code == 200
        await until(lambda: outbox_is_empty(cqrs))
    assert seen == ["before", "after"]


async def test_a_database_that_accepts_and_never_answers_is_named_by_readiness(url: str, proxy: TcpProxy) -> None:
    await proxy.open()
    cqrs = assembled(url)
    async with cqrs.running(workers=()), served(cqrs) as client:
        assert (await checks_of(client))[0] == 200
        proxy.mode = "black"
        status, ok, detail = await checks_of(client)
        assert (status, ok["database"], detail["database"]) == (503, False, "does not answer in time")
        assert ok["broker"]
        proxy.mode = "open"
        await until(lambda: _is_ready(client))


async def test_an_application_starts_before_a_database_that_never_answers(url: str, proxy: TcpProxy) -> None:
    await proxy.open("black")
    cqrs = assembled(url)
    async with cqrs.running(), served(cqrs) as client:
        assert (await checks_of(client))[0] == 503
        proxy.mode = "open"
        await until(lambda: _is_ready(client))


async def test_a_stop_while_the_database_is_away_does_not_wait_for_it(url: str, proxy: TcpProxy) -> None:
    await proxy.open()
    cqrs = assembled(url)
    entered = asyncio.Event()

    @cqrs.on(Noted, name="reader")
    async def read(event: Noted, unit: UnitOfWork) -> None:
        await proxy.shut()
        entered.set()

    async with asyncio.timeout(60):
        await cqrs.open()
        await cqrs.start_workers()
        await cqrs.mediator.send(Note(text="x"))
        await entered.wait()
        stopping = asyncio.create_task(cqrs.stop_workers())
        done, _ = await asyncio.wait({stopping}, timeout=cqrs.settings.drain_timeout.total_seconds() - 0.5)
        assert done, "the consumer retried until its time was over"
        await cqrs.close()


async def test_a_schema_that_is_missing_is_an_error_of_the_start(postgres_url: str) -> None:
    cqrs = assembled(postgres_url)
    with pytest.raises(SchemaBehindError, match=r"has no cqrs_fastapi tables.*run: alembic upgrade head"):
        await cqrs.open()
    assert not cqrs.is_open
    assert cqrs.database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]  # a QueuePool


async def test_a_schema_that_is_missing_in_a_database_that_came_late_is_told_by_readiness(postgres_url: str) -> None:
    url = make_url(postgres_url)
    proxy = TcpProxy(url.host or "127.0.0.1", url.port or 5432)
    through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    cqrs = assembled(through)
    async with cqrs.running(workers=()), served(cqrs) as client:
        await proxy.open()
        status, _, detail = await checks_of(client)
        assert status == 503
        assert "run: alembic upgrade head" in detail["database"]
        prepared = assembled(postgres_url)
        await prepare(prepared)
        await until(lambda: _is_ready(client))
    await proxy.shut()


@dataclass
class AwayBroker:
    """A broker that is away until it is told otherwise; acknowledges what it is sent then."""

    error: Exception | None
    sent: list[OutgoingMessage] = field(default_factory=list)
    name: str = "away"
    in_process: bool = False
    max_message_bytes: int | None = None

    def _require(self) -> None:
        if self.error is not None:
            raise self.error

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def declare_group(self, group: str, topics: Sequence[str]) -> None: ...

    async def ping(self) -> None:
        self._require()

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        self._require()

    async def publisher(self) -> AwayBroker:
        return self

    async def subscribe(self, group: str, topics: Sequence[str], **_: Any) -> AwayBroker:
        self._require()
        return self

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        self._require()
        self.sent += messages
        return [Outcome(Delivery.ACKNOWLEDGED)] * len(messages)


async def test_commands_succeed_while_the_broker_is_away_and_are_delivered_when_it_is_back(database_url: str) -> None:
    broker: Any = AwayBroker(UnavailableError("nobody listens"))
    cqrs = assembled(database_url, broker=broker)
    await prepare(cqrs)
    async with cqrs.running(), served(cqrs) as client:
        status, ok, detail = await checks_of(client)
        assert (status, ok["database"], ok["broker"], detail["broker"]) == (503, True, False, "does not answer")
        for text in ("a", "b"):
            assert (await client.post("/notes", json={"text": text})).status_code == 200
        assert await rows(cqrs, "outbox") == 2
        broker.error = None
        await until(lambda: outbox_is_empty(cqrs))
        await until(lambda: _is_ready(client))
    assert sorted(message.payload for message in broker.sent) == [b'{"text":"a"}', b'{"text":"b"}']


async def test_a_check_that_fails_strangely_is_one_failed_check_and_hides_no_other(sqlite_url: str) -> None:
    broker: Any = AwayBroker(RuntimeError("a driver's bug, with a secret"))
    cqrs = assembled(sqlite_url, broker=broker)
    async with cqrs.running(workers=()):
        readiness = await cqrs.readiness()
    assert [(check.name, check.ok, check.detail) for check in readiness.checks] == [
        ("database", True, "answers"),
        ("broker", False, "does not answer"),
        ("dead letters", True, "none"),
    ]


async def test_readiness_is_gone_from_the_drain_on(sqlite_url: str) -> None:
    cqrs = assembled(sqlite_url)
    assert not (await cqrs.readiness()).ready
    release, entered = asyncio.Event(), asyncio.Event()

    @cqrs.on(Noted, name="reader")
    async def read(event: Noted) -> None:
        entered.set()
        await release.wait()

    await cqrs.open()
    await cqrs.start_workers()
    assert (await cqrs.readiness()).ready
    await cqrs.mediator.send(Note(text="x"))
    await entered.wait()
    stopping = asyncio.create_task(cqrs.stop_workers())
    await asyncio.sleep(0)
    assert not (await cqrs.readiness()).ready
    release.set()
    await stopping
    await cqrs.close()
    assert not (await cqrs.readiness()).ready


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200
