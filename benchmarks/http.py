"""The small program's command over HTTP against an empty FastAPI route, each in a uvicorn of its own, in turns."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

from benchmarks.timing import Ratio, Work, compare

CONNECTIONS = 16
COUNT = 1_500
ROUNDS = 10
HEAD = b"POST /deposits HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\n"

EMPTY = """
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel


class Deposit(BaseModel):
    account_id: UUID
    amount: int


app = FastAPI()


@app.post("/deposits")
async def post_deposit(command: Deposit) -> int:
    return 1
"""

WITHOUT_BODY = """
from fastapi import FastAPI

app = FastAPI()


@app.post("/deposits")
async def post_deposit() -> int:
    return 1
"""


def small_program() -> str:
    """The program of the README."""
    page = (Path(__file__).parents[1] / "README.md").read_text()
    return page.partition("```python\n")[2].partition("```")[0]


async def run() -> list[Ratio]:
    """Requests per second of the small program, as a part of those of a route that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("empty", EMPTY), ("without_body", WITHOUT_BODY), ("hello", small_program())):
            (Path(folder) / f"{name}.py").write_text(text)
        async with (
            _serving(folder, "empty") as empty,
            _serving(folder, "without_body") as without_body,
            _serving(folder, "hello") as hello,
        ):
            return [
                await _compare("the small program / an empty route with the same body and answer", empty, hello),
                await _compare("the small program / an empty route that reads no body", without_body, hello),
            ]


async def _compare(name: str, empty: int, hello: int) -> Ratio:
    return await compare(name, _requests(empty), _requests(hello), limit=0.3, count=COUNT, rounds=ROUNDS, at_least=True)


def _requests(port: int) -> Work:
    async def work(count: int) -> None:
        share = count // CONNECTIONS
        await asyncio.gather(*(_client(port, number, share) for number in range(CONNECTIONS)))

    return work


async def _client(port: int, number: int, count: int) -> None:
    """One keep-alive connection; each has its own accounts, so that nothing conflicts."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for turn in range(count):
        account = UUID(int=(time.time_ns() << 16) + number)
        body = json.dumps({"account_id": str(account), "amount": turn}).encode()
        length = f"content-length: {len(body)}\r\n\r\n"
        writer.write(HEAD + length.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {answer!r}")
        size = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(size)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def _serving(folder: str, module: str) -> AsyncIterator[int]:
    """A uvicorn process in `folder`, with one worker and no access log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port), "--log-level", "warning"]
    root = Path(__file__).parent.parent
    process = subprocess.Popen([*command, "--no-access-log"], cwd=folder, env={**os.environ, "PYTHONPATH": str(root)})
    try:
        await _until_open(port, process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the server did not open its port within 30 seconds")
