from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from cqrs_fastapi.errors import ConfigurationError, RegistrationError
from cqrs_fastapi.web.lifespan import LifespanMiddleware

pytestmark = pytest.mark.anyio

ORDER = [
    "open",
    "app enters",
    "router enters",
    "workers start",
    "request",
    "workers stop",
    "router leaves",
    "app leaves",
    "close",
]


def lifespan_of(name: str, happened: list[str], *, fail: str = "") -> Any:
    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        happened.append(f"{name} enters")
        if fail == "enter":
            raise RuntimeError(f"{name} cannot enter")
        try:
            yield
        finally:
            happened.append(f"{name} leaves")

    return lifespan


class Server:
    """The server's side of the lifespan protocol."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.task = asyncio.create_task(self.app(scope, self.inbox.get, self.outbox.put))
        self.inbox.put_nowait({"type": "lifespan.startup"})

    async def answer(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.outbox.get(), 5)

    async def stop(self) -> dict[str, Any]:
        self.inbox.put_nowait({"type": "lifespan.shutdown"})
        return await self.answer()

    async def end(self) -> BaseException | None:
        assert self.task is not None
        await asyncio.wait((self.task,), timeout=5)
        assert self.task.done()
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()


@pytest.fixture
def recorded(application: Any, install_on: Callable[..., None]) -> FastAPI:
    """An app with a lifespan, and a router with a lifespan that is included after the installation."""
    happened = application.happened
    app = FastAPI(lifespan=lifespan_of("app", happened))
    install_on(app, application)
    router = APIRouter(lifespan=lifespan_of("router", happened))

    @router.get("/")
    async def root() -> str:
        happened.append("request")
        return "ok"

    app.include_router(router)
    return app


def test_the_mediator_opens_before_every_lifespan_and_workers_run_while_all_are_entered(
    recorded: FastAPI, application: Any
) -> None:
    with TestClient(recorded) as client:
        assert client.get("/").status_code == 200
    assert application.happened == ORDER


def test_what_the_start_has_made_is_no_work_for_the_garbage_collector_until_the_end(recorded: FastAPI) -> None:
    with TestClient(recorded):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_an_app_may_be_started_again(recorded: FastAPI, application: Any) -> None:
    for _ in range(2):
        with TestClient(recorded) as client:
            client.get("/")
    assert application.happened == ORDER * 2


def test_an_app_without_a_lifespan_of_its_own_is_opened_and_closed(app: FastAPI, application: Any) -> None:
    with TestClient(app):
        pass
    assert application.happened == ["open", "workers start", "workers stop", "close"]


async def test_an_error_of_configuration_is_told_to_the_server_in_its_own_sentence(
    recorded: FastAPI, application: Any
) -> None:
    error = RegistrationError(["Deposit has no handler; write: requests.bind(Deposit, your_handler)"])
    application.fail["open"] = error
    server = Server(recorded)
    server.start()
    assert await server.answer() == {"type": "lifespan.startup.failed", "message": str(error)}
    assert await server.end() is error
    assert application.happened == ["open"]


async def test_any_other_error_at_the_start_is_told_with_its_type(recorded: FastAPI, application: Any) -> None:
    application.fail["open"] = OSError("no space left")
    server = Server(recorded)
    server.start()
    assert (await server.answer())["message"] == "OSError: no space left"
    assert isinstance(await server.end(), OSError)


def test_a_test_client_raises_what_kept_the_application_from_opening(app: FastAPI, application: Any) -> None:
    application.fail["open"] = ConfigurationError("run: alembic upgrade head")
    with pytest.raises(ConfigurationError, match="alembic upgrade head"), TestClient(app):
        pass


async def test_workers_that_cannot_start_fail_the_startup_after_the_lifespans_have_left(
    recorded: FastAPI, application: Any
) -> None:
    application.fail["workers start"] = ConfigurationError("a relay on memory:// runs in the app only")
    server = Server(recorded)
    server.start()
    assert await server.answer() == {
        "type": "lifespan.startup.failed",
        "message": "a relay on memory:// runs in the app only",
    }
    await server.end()
    assert application.happened == [step for step in ORDER if step != "request"]


async def test_a_lifespan_of_the_app_that_fails_to_enter_closes_the_application(
    application: Any, install_on: Callable[..., None]
) -> None:
    app = FastAPI(lifespan=lifespan_of("app", application.happened, fail="enter"))
    install_on(app, application)
    server = Server(app)
    server.start()
    answer = await server.answer()
    assert answer["type"] == "lifespan.startup.failed"
    assert isinstance(await server.end(), RuntimeError)
    assert application.happened == ["open", "app enters", "close"]


async def test_a_server_that_cancels_gets_the_same_order(recorded: FastAPI, application: Any) -> None:
    server = Server(recorded)
    server.start()
    assert (await server.answer())["type"] == "lifespan.startup.complete"
    assert server.task is not None
    server.task.cancel()
    assert isinstance(await server.end(), asyncio.CancelledError)
    assert application.happened == [step for step in ORDER if step != "request"]


async def test_a_start_that_is_cancelled_leaves_nothing_open(recorded: FastAPI, application: Any) -> None:
    async def hang() -> None:
        application.is_open = True
        application.happened.append("open")
        await asyncio.Event().wait()

    application.open = hang
    server = Server(recorded)
    server.start()
    await asyncio.sleep(0.01)
    assert server.task is not None
    server.task.cancel()
    await server.end()
    assert application.happened == ["open", "close"]


@pytest.mark.parametrize("step", ["workers stop", "close"])
async def test_a_failing_shutdown_is_told_and_every_lifespan_still_leaves(
    recorded: FastAPI, application: Any, step: str
) -> None:
    application.fail[step] = RuntimeError("the broker went away")
    server = Server(recorded)
    server.start()
    await server.answer()
    assert await server.stop() == {
        "type": "lifespan.shutdown.failed",
        "message": "RuntimeError: the broker went away",
    }
    assert isinstance(await server.end(), RuntimeError)
    assert application.happened == [name for name in ORDER if name != "request"]


def without_lifespan_raising() -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope["type"])

    return app


def without_lifespan_returning() -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    return app


@pytest.mark.parametrize("inner", [without_lifespan_raising(), without_lifespan_returning()])
async def test_an_inner_application_that_knows_no_lifespan_is_served_all_the_same(application: Any, inner: Any) -> None:
    server = Server(LifespanMiddleware(inner, runs=application))
    server.start()
    assert await server.answer() == {"type": "lifespan.startup.complete"}
    assert await server.stop() == {"type": "lifespan.shutdown.complete"}
    assert await server.end() is None
    assert application.happened == ["open", "workers start", "workers stop", "close"]
