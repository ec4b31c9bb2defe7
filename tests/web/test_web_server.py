"""Against a real server, on a port of its own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

pytestmark = pytest.mark.anyio

PROGRAM = """
from fastapi import FastAPI
from cqrs_fastapi.errors import {error}
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.web.installation import install

class Failing:
    settings = Settings()
    async def open(self):
        raise {error}{arguments}
    async def close(self):
        pass

app = FastAPI()
install(app, Failing(), identify=None, statuses=None)
"""


def served(directory: Path, error: str, arguments: str) -> tuple[int, str]:
    (directory / "program.py").write_text(PROGRAM.format(error=error, arguments=arguments))
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-m", "uvicorn", "program:app", "--port", "0", "--app-dir", str(directory)],
        cwd=root,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_server_prints_the_sentence_of_a_wrong_configuration_and_no_traceback(tmp_path: Path) -> None:
    code, output = served(tmp_path, "SchemaBehindError", "(found=None, expected='r0001')")
    assert code == 3
    assert "the code expects r0001; run: alembic upgrade head" in output
    assert "Traceback" not in output


@pytest.fixture
async def server(make_application: Callable[..., Any], install_on: Callable[..., None]) -> AsyncIterator[str]:
    app = FastAPI()
    install_on(app, make_application(max_body_bytes=1000))

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.get("/broken")
    async def broken() -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            yield b"one,"
            raise ValueError("two is missing")

        return StreamingResponse(rows())

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        serving = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
        task = asyncio.create_task(serving.serve(sockets=[listening]))
        while not serving.started:  # uvicorn offers no event
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        serving.should_exit = True
        await task


async def streamed(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield b"x" * 1000


async def test_a_connection_serves_on_after_a_body_that_was_too_large(server: str) -> None:
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=server, limits=limits) as client:
        declared = await client.post("/raw", content=b"x" * 300_000)
        growing = await client.post("/raw", content=streamed(300_000))
        accepted = await client.post("/raw", content=b"x" * 1000)
    assert [declared.status_code, growing.status_code] == [413, 413]
    assert accepted.json() == 1000


async def test_a_client_sees_that_an_answer_broke_off(server: str) -> None:
    async with httpx.AsyncClient(base_url=server) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/broken")
