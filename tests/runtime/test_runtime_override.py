"""`with cqrs.override(T).by(fake):` reaches every handler, however it was reached, and leaves no trace."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from dependency_injector import providers
from fastapi import FastAPI
from fastapi.testclient import TestClient
from runtime_support import Note, Noted, outbox_is_empty, settings_for, until

from cqrs_fastapi import CQRS, Command, CqrsContainer, MediatorDep, Provides, Tick, UnitOfWork
from cqrs_fastapi.errors import RegistrationError

pytestmark = pytest.mark.anyio


class Payments:
    name = "real"


class Fake(Payments):
    def __init__(self, name: str) -> None:
        self.name = name


class Line:
    """A resource of the application, which is opened asynchronously."""

    def __init__(self, name: str) -> None:
        self.name = name


class Shop:
    """Gets its payments from the container."""

    def __init__(self, payments: Payments) -> None:
        self.payments = payments


class Unheard: ...


class Ask(Command[str]): ...


class AskLine(Command[str]): ...


class AskShop(Command[str]): ...


async def open_line() -> AsyncIterator[Line]:
    yield Line("real")


class Container(CqrsContainer):
    payments: Provides[Payments] = providers.Singleton(Payments)
    shop: Provides[Shop] = providers.Factory(Shop, payments)
    line: Provides[Line] = providers.Resource(open_line)


class Seen(list[str]):
    """What handlers were given."""


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def cqrs(sqlite_url: str, seen: Seen) -> CQRS:
    cqrs = CQRS(container=Container(), settings=settings_for(sqlite_url))

    @cqrs.handles(Ask)
    async def ask(command: Ask, payments: Payments) -> str:
        return payments.name

    @cqrs.handles(AskLine)
    async def ask_line(command: AskLine, line: Line) -> str:
        return line.name

    @cqrs.handles(AskShop)
    async def ask_shop(command: AskShop, shop: Shop) -> str:
        return shop.payments.name

    @cqrs.handles(Note)
    async def note(command: Note, unit: UnitOfWork) -> str:
        unit.publish(Noted(text=command.text))
        return command.text

    @cqrs.on(Noted, name="reader")
    async def read(event: Noted, payments: Payments) -> None:
        seen.append(f"durable {payments.name}")

    @cqrs.job(every=timedelta(seconds=1), name="ticker")
    async def tick(tick: Tick, payments: Payments) -> None:
        seen.append(f"job {payments.name}")

    return cqrs


def test_a_route_gets_what_the_override_gives_for_as_long_as_it_lasts(cqrs: CQRS) -> None:
    app = FastAPI()
    cqrs.install(app)

    @app.post("/ask")
    async def ask(mediator: MediatorDep) -> str:
        return await mediator.send(Ask())

    with TestClient(app) as client:
        answers = [client.post("/ask").json()]
        with cqrs.override(Payments).by(Fake("outer")):
            answers.append(client.post("/ask").json())
            with cqrs.override(Payments).by(Fake("inner")):
                answers.append(client.post("/ask").json())
            answers.append(client.post("/ask").json())
        answers.append(client.post("/ask").json())
    assert answers == ["real", "outer", "inner", "outer", "real"]


async def test_a_durable_handler_and_a_job_get_it_too(cqrs: CQRS, seen: Seen) -> None:
    async with cqrs.running():
        with cqrs.override(Payments).by(Fake("fake")):
            await cqrs.mediator.send(Note(text="x"))
            await until(lambda: "durable fake" in seen and "job fake" in seen)
            await until(lambda: outbox_is_empty(cqrs))
        seen.clear()
        await cqrs.mediator.send(Note(text="y"))
        await until(lambda: "durable real" in seen and "job real" in seen)


async def test_a_scope_gets_it_even_where_it_opens_the_application_itself(cqrs: CQRS) -> None:
    with cqrs.override(Payments).by(Fake("fake")):
        async with cqrs.scope() as scope:
            assert await scope.send(Ask()) == "fake"
    async with cqrs.scope() as scope:
        assert await scope.send(Ask()) == "real"


async def test_it_reaches_what_the_container_makes_of_it(cqrs: CQRS) -> None:
    async with cqrs.running(workers=()):
        with cqrs.override(Payments).by(Fake("fake")):
            assert await cqrs.mediator.send(AskShop()) == "fake"
        assert await cqrs.mediator.send(AskShop()) == "real"


async def test_an_override_from_before_the_start_may_end_while_the_application_is_open(cqrs: CQRS) -> None:
    overriding = cqrs.override(Line).by(Line("fake"))
    with overriding:
        await cqrs.open()
        assert await cqrs.mediator.send(AskLine()) == "fake"
    assert await cqrs.mediator.send(AskLine()) == "real"
    await cqrs.close()


async def test_an_override_may_begin_open_and_end_closed(cqrs: CQRS) -> None:
    await cqrs.open()
    with cqrs.override(Payments).by(Fake("fake")):
        assert await cqrs.mediator.send(Ask()) == "fake"
        await cqrs.close()
    async with cqrs.running(workers=()):
        assert await cqrs.mediator.send(Ask()) == "real"


async def test_an_override_lasts_from_one_opening_to_the_next(cqrs: CQRS) -> None:
    with cqrs.override(Payments).by(Fake("fake")):
        for _ in range(2):
            async with cqrs.running(workers=()):
                assert await cqrs.mediator.send(Ask()) == "fake"


async def test_an_error_inside_the_block_removes_the_override(cqrs: CQRS) -> None:
    async with cqrs.running(workers=()):
        with pytest.raises(LookupError), cqrs.override(Payments).by(Fake("fake")):
            raise LookupError
        assert await cqrs.mediator.send(Ask()) == "real"


async def test_an_override_can_stand_in_for_what_nothing_provides(sqlite_url: str) -> None:
    cqrs = CQRS(settings=settings_for(sqlite_url))

    @cqrs.handles(Ask)
    async def ask(command: Ask, payments: Payments) -> str:
        return payments.name

    with cqrs.override(Payments).by(Fake("fake")):
        async with cqrs.running(workers=()):
            assert await cqrs.mediator.send(Ask()) == "fake"
    with pytest.raises(RegistrationError, match="asks for Payments, which nothing provides"):
        await cqrs.open()


async def test_an_override_that_cannot_be_taken_back_is_an_error_and_is_gone_all_the_same(sqlite_url: str) -> None:
    cqrs = CQRS(settings=settings_for(sqlite_url))

    @cqrs.handles(Ask)
    async def ask(command: Ask, payments: Payments) -> str:
        return payments.name

    with pytest.raises(RegistrationError, match="asks for Payments"), cqrs.override(Payments).by(Fake("fake")):
        await cqrs.open()
    await cqrs.close()
    with pytest.raises(RegistrationError, match="asks for Payments"):
        await cqrs.open()


async def test_an_override_that_cannot_begin_leaves_nothing(cqrs: CQRS) -> None:
    async with cqrs.running(workers=()):

        @cqrs.handles(Ask)
        async def second(command: Ask) -> str:
            return "second"

        overriding = cqrs.override(Payments).by(Fake("fake"))
        with pytest.raises(RegistrationError), overriding:
            pytest.fail("the block must not be entered")
        assert await cqrs.mediator.send(Ask()) == "real"
        assert cqrs._overrides == {}


def test_no_request_is_lost_while_overrides_come_and_go_in_another_thread(cqrs: CQRS) -> None:
    """A TestClient runs its app in a thread of its own; the tables must never be seen half made."""
    app = FastAPI()
    cqrs.install(app)
    failures: list[str] = []
    asked = 0
    done = threading.Event()

    @app.post("/ask")
    async def ask() -> int:
        nonlocal asked
        while not done.is_set():
            try:
                await cqrs.mediator.send(Ask())
            except Exception as error:  # noqa: BLE001  # any failure is one
                failures.append(repr(error))
            asked += 1
            if asked % 50 == 0:
                await asyncio.sleep(0)
        return asked

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        _come_and_go(cqrs, app, done)
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    assert asked > 0


def _come_and_go(cqrs: CQRS, app: FastAPI, done: threading.Event) -> None:
    with TestClient(app) as client:
        asking = threading.Thread(target=client.post, args=("/ask",))
        asking.start()
        for number in range(40):
            with cqrs.override(Payments).by(Fake(str(number))):
                pass
        done.set()
        asking.join()
