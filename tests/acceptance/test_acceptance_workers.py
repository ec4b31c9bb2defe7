"""Two uvicorn workers on one database share the work, and end together."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from checker import QUERIES, Remains, faults, read_sqlite, remains_of
from processes import Clients, children_of, is_running, request, status_of, until, uvicorn_of
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


def read_url(url: str) -> Remains:
    async def read() -> Remains:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            found = {name: [tuple(row) for row in await connection.execute(text(sql))] for name, sql in QUERIES.items()}
        await engine.dispose()
        return remains_of(found)

    return asyncio.run(read())


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{request.getfixturevalue('ledger_file')}"
    return str(request.getfixturevalue("ledger_postgres"))


def read(url: str) -> Remains:
    return read_sqlite(url.removeprefix("sqlite+aiosqlite:///")) if url.startswith("sqlite") else read_url(url)


def reading_processes(url: str) -> list[int]:
    """Who ran the durable handlers, in order, each once in a row."""

    async def ask() -> list[int]:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            processes = (await connection.execute(text("SELECT process FROM effects ORDER BY n"))).scalars().all()
        await engine.dispose()
        return [int(process) for process, _ in itertools.groupby(processes)]

    return asyncio.run(ask())


def test_two_workers_on_one_database_have_each_effect_and_each_tick_once(url: str, tmp_path: Path) -> None:
    with uvicorn_of(tmp_path, "--workers", "2", CQRS_DATABASE_URL=url) as (server, port):
        until(lambda: status_of(port, "/health/ready") == 200, "a worker is ready")
        until(lambda: len(_workers(server.pid)) == 2, "both workers run")
        clients = Clients(tmp_path, port, seed=2, threads=4)
        try:
            time.sleep(3.5)
        finally:
            clients.stop()
        until(lambda: read(url).settled, "everything is settled")
        workers = _workers(server.pid)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
        until(lambda: not any(is_running(pid) for pid in workers), "every process is gone")

    remains = read(url)
    assert faults(remains, clients.acknowledged()) == []
    assert len(clients.acknowledged()) > 20
    assert len(remains.ticks) >= 2
    # A lease may change hands on a machine that stalls; two readers at once would alternate all the time.
    assert len(reading_processes(url)) <= 3
    assert remains.leases_held == []
    assert _failures(tmp_path) == []


def _workers(pid: int) -> list[int]:
    """Uvicorn's workers, without the process that multiprocessing keeps for itself."""
    return [child for child in children_of(pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_terminated_server_finishes_the_command_that_it_has_begun(ledger_file: Path, tmp_path: Path) -> None:
    command = str(uuid4())
    body = {"ledger": str(UUID(int=1)), "command": command, "slow": 1.0}
    with uvicorn_of(tmp_path) as (server, port):
        until(lambda: status_of(port, "/health/ready") == 200, "the server is ready")
        with subprocess.Popen(
            [
                "curl",
                "-s",
                "-d",
                _json(body),
                "-H",
                "content-type: application/json",
                f"http://127.0.0.1:{port}/entries",
            ],
            stdout=subprocess.PIPE,
        ) as curl:
            time.sleep(0.4)
            server.send_signal(signal.SIGTERM)
            answer, _ = curl.communicate(timeout=20)
        assert server.wait(20) in (0, -signal.SIGTERM)
    assert answer == b"1"
    remains = read_sqlite(str(ledger_file))
    assert [found for _, _, found in remains.events] == [command]
    assert remains.leases_held == []

    with uvicorn_of(tmp_path) as (server, port):
        until(lambda: read_sqlite(str(ledger_file)).settled, "what was left is settled")
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    assert faults(read_sqlite(str(ledger_file)), [command]) == []


def _json(body: object) -> str:
    return json.dumps(body)


def test_a_client_that_leaves_in_the_middle_gets_its_command_decided_and_nothing_leaks(
    ledger_file: Path, tmp_path: Path
) -> None:
    commands = [str(uuid4()) for _ in range(30)]
    with uvicorn_of(tmp_path) as (server, port):
        until(lambda: status_of(port, "/health/ready") == 200, "the server is ready")
        before = _open_files(server.pid)
        for command in commands:
            _send_and_leave(port, {"ledger": str(UUID(int=2)), "command": command, "slow": 0.2})
        until(lambda: len(read_sqlite(str(ledger_file)).events) == len(commands), "all are committed")
        until(lambda: read_sqlite(str(ledger_file)).settled, "everything is settled")
        assert request(port, "GET", "/health/ready")[0] == 200
        until(lambda: _sockets(server.pid) == 0, "every connection that its client has left is closed")
        # The pool and SQLite's own files may be open now; thirty requests must not have left thirty of anything.
        assert _open_files(server.pid) - before < len(commands)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
    assert faults(read_sqlite(str(ledger_file)), commands) == []
    assert _failures(tmp_path) == []


def _send_and_leave(port: int, body: object) -> None:
    text_ = _json(body)
    head = (
        f"POST /entries HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text_)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall((head + text_).encode())
        time.sleep(0.05)


def _failures(folder: Path) -> list[str]:
    """What must not be in a log. A bell that APScheduler cancels as it stops is logged too, and means nothing."""
    wrong = (
        "Exception in ASGI",
        "worker_failed",
        "close_failed",
        "_did_not_",
        "after_its_caller_left",
        "never retrieved",
    )
    return [line for line in (folder / "uvicorn.log").read_text().splitlines() if any(word in line for word in wrong)]


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _sockets(pid: int) -> int:
    """Connections of clients that the server still holds (state 01 is established, 08 waits for its close)."""
    held = {link for fd in Path(f"/proc/{pid}/fd").iterdir() if (link := _target(fd)).startswith("socket:[")}
    inodes = {link[8:-1] for link in held}
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for line in lines if line[9] in inodes and line[3] == "08")


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except FileNotFoundError:
        return ""
