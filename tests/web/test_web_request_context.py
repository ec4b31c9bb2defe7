from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any
from uuid import uuid4

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from cqrs_fastapi.clock import SystemClock
from cqrs_fastapi.identity import Uuid7Factory
from cqrs_fastapi.messages.metadata import Metadata, holder
from cqrs_fastapi.web.request_context import RequestContextMiddleware

pytestmark = pytest.mark.anyio

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FRESH = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def add_metadata_route(app: FastAPI) -> None:
    @app.get("/metadata")
    async def metadata() -> dict[str, str | None]:
        current = Metadata.current()
        assert Metadata.current() == current
        return {
            "correlation_id": current.correlation_id,
            "traceparent": current.traceparent,
            "user": current.user,
            "tenant": current.tenant,
            "causation_id": str(current.causation_id),
        }


async def authenticate(request: Request) -> None:
    request.state.user, request.state.tenant = "ada", "acme"


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    add_metadata_route(app)
    return TestClient(app)


@pytest.mark.parametrize("header", ["X-Correlation-ID", "X-Request-ID"])
def test_a_callers_correlation_id_is_taken_over_and_given_back(client: TestClient, header: str) -> None:
    response = client.get("/metadata", headers={header: "order-17_a.b"})
    assert response.json()["correlation_id"] == "order-17_a.b"
    assert response.headers.get_list("x-correlation-id") == ["order-17_a.b"]


def test_the_correlation_id_goes_before_the_request_id(client: TestClient) -> None:
    response = client.get("/metadata", headers={"X-Request-ID": "second", "X-Correlation-ID": "first"})
    assert response.json()["correlation_id"] == "first"


@pytest.mark.parametrize(
    "bad", ["", "a" * 65, "with space", "a\tb", "ä", "a;b", '{"a":1}', "%0d%0aSet-Cookie:x", "a/b", "\x7f"]
)
def test_a_correlation_id_of_other_characters_is_replaced(client: TestClient, bad: str) -> None:
    response = client.get("/metadata", headers={"X-Correlation-ID": bad.encode("latin-1")})  # type: ignore[dict-item]  # raw bytes are the case
    assert FRESH.fullmatch(response.json()["correlation_id"])
    assert response.headers["x-correlation-id"] == response.json()["correlation_id"]


@pytest.mark.parametrize("bad", [b"a\r\nSet-Cookie: x=1", b"a\n", b"\x00", b"\xff\xfe"])
async def test_line_breaks_never_come_back_in_a_header(app: FastAPI, bad: bytes) -> None:
    """A client library would not send these; a broken server could pass them on."""
    add_metadata_route(app)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/metadata", "raw_path": b"/metadata", "query_string": b"",
        "headers": [(b"x-correlation-id", bad)], "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    await app(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]  # nothing is received here
    assert FRESH.fullmatch(dict(sent[0]["headers"])[b"x-correlation-id"].decode())


def test_a_well_formed_traceparent_is_taken_over(client: TestClient) -> None:
    assert client.get("/metadata", headers={"traceparent": TRACEPARENT}).json()["traceparent"] == TRACEPARENT


@pytest.mark.parametrize(
    "bad",
    [
        TRACEPARENT.upper(),
        TRACEPARENT + "-00",
        "ff" + TRACEPARENT[2:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        "00-4bf92f-00f067aa0ba902b7-01",
    ],
)
def test_a_malformed_traceparent_is_left_out(client: TestClient, bad: str) -> None:
    assert client.get("/metadata", headers={"traceparent": bad}).json()["traceparent"] is None


def test_nobody_may_claim_a_user_or_a_tenant_by_a_header(client: TestClient) -> None:
    response = client.get("/metadata", headers={"X-User": "admin", "X-Tenant": "other", "X-Tenant-ID": "other"})
    assert (response.json()["user"], response.json()["tenant"]) == (None, None)


def test_user_and_tenant_are_as_authentication_has_established_them(
    application: Any, install_on: Callable[..., None]
) -> None:
    def identify(connection: HTTPConnection) -> tuple[str | None, str | None]:
        return getattr(connection.state, "user", None), getattr(connection.state, "tenant", None)

    app = FastAPI()
    install_on(app, application, identify=identify)

    @app.get("/me")
    async def me(_: Annotated[None, Depends(authenticate)]) -> list[str | None]:
        return [Metadata.current().user, Metadata.current().tenant]

    add_metadata_route(app)
    client = TestClient(app)
    assert client.get("/me").json() == ["ada", "acme"]
    assert client.get("/metadata").json()["user"] is None


def test_an_identity_that_is_refused_is_the_answer(application: Any, install_on: Callable[..., None]) -> None:
    def identify(_: HTTPConnection) -> tuple[str | None, str | None]:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})

    app = FastAPI()
    install_on(app, application, identify=identify)
    add_metadata_route(app)
    response = TestClient(app).get("/metadata")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert TestClient(app).get("/health/live").status_code == 200


async def test_interleaved_requests_each_see_their_own_correlation_id(app: FastAPI) -> None:
    gate = asyncio.Event()
    arrived: list[str] = []

    @app.get("/wait")
    async def wait() -> list[str]:
        before = Metadata.current().correlation_id
        arrived.append(before)
        if len(arrived) == 100:
            gate.set()
        await gate.wait()
        return [before, Metadata.current().correlation_id]

    @app.get("/thread")
    def thread() -> list[str]:
        return [Metadata.current().correlation_id]

    ids = [str(uuid4()) for _ in range(100)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answers = await asyncio.gather(*(client.get("/wait", headers={"X-Correlation-ID": one}) for one in ids))
        assert [answer.json() for answer in answers] == [[one, one] for one in ids]
        assert [answer.headers["x-correlation-id"] for answer in answers] == ids
        assert (await client.get("/thread", headers={"X-Correlation-ID": "in-a-thread"})).json() == ["in-a-thread"]
    assert holder() is None


async def test_the_context_is_left_as_it_was_found_even_after_an_error() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        assert holder() is not None
        raise ValueError

    middleware = RequestContextMiddleware(failing, ids=Uuid7Factory(), clock=SystemClock(), identify=None)
    with pytest.raises(ValueError):
        await middleware({"type": "http", "headers": []}, None, None)  # type: ignore[arg-type]  # never used here
    assert holder() is None


def test_a_websocket_has_an_origin_too(app: FastAPI) -> None:
    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(Metadata.current().correlation_id)
        await websocket.close()

    with TestClient(app).websocket_connect("/socket", headers={"X-Correlation-ID": "live-1"}) as session:
        assert session.receive_text() == "live-1"
        assert (b"x-correlation-id", b"live-1") in (session.extra_headers or [])
