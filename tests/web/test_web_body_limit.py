from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

pytestmark = pytest.mark.anyio

LIMIT = 1000


class Note(BaseModel):
    text: str


@pytest.fixture
def limited(make_application: Callable[..., Any], install_on: Callable[..., None]) -> FastAPI:
    app = FastAPI()
    install_on(app, make_application(max_body_bytes=LIMIT))

    @app.post("/note")
    async def note(note: Note) -> int:
        return len(note.text)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    return app


@pytest.fixture
async def client(limited: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://test") as client:
        yield client


async def chunks(total: int, size: int = 100) -> AsyncIterator[bytes]:
    for _ in range(total // size):
        yield b"x" * size


def assert_is_413(response: httpx.Response) -> None:
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "content_too_large"
    assert response.json()["correlation_id"] == response.headers["x-correlation-id"]


async def test_a_body_of_exactly_the_limit_is_accepted(client: httpx.AsyncClient) -> None:
    assert (await client.post("/raw", content=b"x" * LIMIT)).json() == LIMIT
    assert (await client.post("/raw", content=chunks(LIMIT))).json() == LIMIT


@pytest.mark.parametrize("path", ["/raw", "/note", "/nowhere"])
async def test_a_content_length_above_the_limit_is_413_at_once(client: httpx.AsyncClient, path: str) -> None:
    assert_is_413(await client.post(path, content=b"x" * (LIMIT + 1)))


@pytest.mark.parametrize("path", ["/raw", "/note"])
async def test_a_body_that_grows_above_the_limit_is_413(client: httpx.AsyncClient, path: str) -> None:
    headers = {"content-type": "application/json"}
    assert_is_413(await client.post(path, content=chunks(LIMIT + 100), headers=headers))


@pytest.mark.parametrize("path", ["/raw", "/note"])
async def test_an_endless_body_is_read_up_to_the_limit_only(limited: FastAPI, path: str) -> None:
    handed_out = 0
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        nonlocal handed_out
        handed_out += 100
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    await limited(scope, receive, send)
    assert sent[0]["status"] == 413
    assert handed_out == LIMIT + 100


@pytest.mark.parametrize("length", [b"9" * 5000, b"18446744073709551617", b"1001"])
async def test_however_large_the_declared_length_it_is_413(limited: FastAPI, length: bytes) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("a refused body is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/raw", "raw_path": b"/raw", "query_string": b"",
        "headers": [(b"content-length", length)], "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    await limited(scope, receive, send)
    assert sent[0]["status"] == 413
