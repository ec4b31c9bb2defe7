from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient

from cqrs_fastapi.errors import ConfigurationError, DomainError, NotRunningError
from cqrs_fastapi.web import dependencies
from cqrs_fastapi.web.dependencies import event_mediator, mediator

pytestmark = pytest.mark.anyio

# The fake's mediators are words; the real annotations would not stop FastAPI from passing them, but would mislead.
AnyMediator = Annotated[Any, Depends(mediator)]
AnyEventMediator = Annotated[Any, Depends(event_mediator)]


def add_routes(app: FastAPI) -> None:
    @app.get("/mediator")
    async def which(mediator: AnyMediator) -> str:
        return str(mediator)

    @app.get("/event-mediator")
    async def which_event(mediator: AnyEventMediator) -> str:
        return str(mediator)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, mediator: AnyMediator) -> None:
        await websocket.accept()
        await websocket.send_text(str(mediator))
        await websocket.close()


def test_routes_get_the_mediators_of_their_application(app: FastAPI) -> None:
    add_routes(app)
    with TestClient(app) as client:
        assert client.get("/mediator").json() == "mediator of orders"
        assert client.get("/event-mediator").json() == "event mediator of orders"


def test_a_websocket_gets_the_mediator(app: FastAPI) -> None:
    add_routes(app)
    with TestClient(app) as client, client.websocket_connect("/socket") as socket:
        assert socket.receive_text() == "mediator of orders"


def test_two_apps_in_one_process_have_each_their_own(
    make_application: Callable[..., Any], install_on: Callable[..., None]
) -> None:
    apps = []
    for name in ("orders", "shipping"):
        app = FastAPI()
        install_on(app, make_application(name=name))
        add_routes(app)
        apps.append(app)
    with TestClient(apps[0]) as first, TestClient(apps[1]) as second:
        assert first.get("/mediator").json() == "mediator of orders"
        assert second.get("/mediator").json() == "mediator of shipping"


def test_a_mounted_application_is_served_by_its_hosts_mediator(app: FastAPI) -> None:
    mounted = FastAPI()
    add_routes(mounted)
    app.mount("/sub", mounted)
    with TestClient(app) as client:
        assert client.get("/sub/mediator").json() == "mediator of orders"
        with client.websocket_connect("/sub/socket") as socket:
            assert socket.receive_text() == "mediator of orders"


def test_a_mounted_application_may_have_its_own(
    app: FastAPI, make_application: Callable[..., Any], install_on: Callable[..., None]
) -> None:
    inner = make_application(name="inner")
    inner.is_open = True
    mounted = FastAPI()
    install_on(mounted, inner)
    add_routes(mounted)
    app.mount("/sub", mounted)
    with TestClient(app) as client:
        response = client.get("/sub/mediator")
    assert response.json() == "mediator of inner"
    assert len(response.headers.get_list("x-correlation-id")) == 1


@pytest.mark.parametrize("path", ["/mediator", "/event-mediator"])
def test_a_test_client_without_with_is_told_what_to_write(app: FastAPI, path: str) -> None:
    add_routes(app)
    with pytest.raises(NotRunningError) as raised:
        TestClient(app).get(path)
    assert "with TestClient(app)" in str(raised.value)
    assert "async with cqrs.running()" in str(raised.value)


async def test_a_bare_transport_works_inside_of_a_running_application(app: FastAPI, application: Any) -> None:
    add_routes(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with pytest.raises(NotRunningError, match="running"):
            await client.get("/mediator")
        await application.open()
        assert (await client.get("/mediator")).json() == "mediator of orders"


def test_outside_of_tests_a_stopped_application_answers_with_an_opaque_problem(app: FastAPI) -> None:
    add_routes(app)
    response = TestClient(app, raise_server_exceptions=False).get("/mediator")
    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "TestClient" not in response.text


def test_an_app_without_the_extension_is_told_to_install_it() -> None:
    app = FastAPI()
    add_routes(app)
    with pytest.raises(ConfigurationError, match=r"cqrs\.install\(app\)"):
        TestClient(app).get("/mediator")


def test_the_extension_is_refused_twice_on_one_app(
    app: FastAPI, application: Any, install_on: Callable[..., None]
) -> None:
    with pytest.raises(ConfigurationError, match="called twice"):
        install_on(app, application)


def test_the_extension_is_refused_on_an_app_that_has_started(application: Any, install_on: Callable[..., None]) -> None:
    app = FastAPI()
    with TestClient(app), pytest.raises(ConfigurationError, match="has started already"):
        install_on(app, application)


@pytest.mark.parametrize(
    ("statuses", "message"),
    [({ValueError: 409}, "no DomainError"), ({DomainError: 503}, "400 to 499")],
)
def test_a_status_that_is_no_refusal_is_an_error_at_the_installation(
    application: Any, install_on: Callable[..., None], statuses: Any, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        install_on(FastAPI(), application, statuses=statuses)


def test_installing_reads_no_environment(
    application: Any, install_on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    del application.settings
    install_on(FastAPI(), application)


def test_the_dependencies_need_no_thread() -> None:
    assert asyncio.iscoroutinefunction(dependencies.mediator)
    assert asyncio.iscoroutinefunction(dependencies.event_mediator)
