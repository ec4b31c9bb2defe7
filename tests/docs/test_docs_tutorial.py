"""The programs of the tutorial, copied out of the page into an empty folder, and served as a person serves them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from docs_pages import ROOT, blocks

from tools.servers.ports import free_port

TUTORIAL = ROOT / "docs" / "tutorial.md"
STARTS_WITHIN = 30.0


class Served:
    """A program under uvicorn, with its output in a file."""

    def __init__(self, folder: Path, target: str) -> None:
        self.port = free_port()
        self.log = folder / "log.txt"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", target, "--port", str(self.port)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: self._call("GET", "/health/ready", None)[0] == 200, STARTS_WITHIN)

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)[1]

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return self._call("POST", path, json.dumps(body).encode())

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def output(self) -> str:
        return self.log.read_text()

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        request = urllib.request.Request(  # an address of ours
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # see above
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:  # nobody listens yet
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the files of the tutorial and nothing else."""
    for block in blocks(TUTORIAL, "python"):
        if "file" in block.marks:
            path = tmp_path / block.marks["file"]
            path.write_text((path.read_text() + "\n\n" if path.exists() else "") + block.text)
    return tmp_path


@contextmanager
def serving(folder: Path, target: str) -> Iterator[Served]:
    served = Served(folder, target)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait(timeout=10)


def test_the_tutorial_has_the_two_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["bank.py", "hello.py"]


def test_the_readme_shows_the_same_small_program(folder: Path) -> None:
    readme = ROOT / "README.md"
    assert (folder / "hello.py").read_text() in [block.text for block in blocks(readme, "python")]


def test_what_the_small_program_answered_survives_a_kill(folder: Path) -> None:
    deposit = {"account_id": str(uuid4()), "amount": 100}
    with serving(folder, "hello:app") as served:
        assert served.post("/deposits", deposit) == (200, 100)
        assert served.post("/deposits", deposit) == (200, 200)
        served.end(signal.SIGKILL)
    with serving(folder, "hello:app") as served:
        assert served.post("/deposits", deposit) == (200, 300)


def test_the_small_program_answers_a_request_under_way_before_it_follows_sigterm(folder: Path) -> None:
    deposit = {"account_id": str(uuid4()), "amount": 100}
    body = json.dumps(deposit).encode()
    head = (
        "POST /deposits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with serving(folder, "hello:app") as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            connection.sendall(head.encode())
            assert b"100 Continue" in connection.recv(1000)  # the application waits for the body
            served.process.send_signal(signal.SIGTERM)
            eventually(lambda: "Shutting down" in served.output())
            connection.sendall(body)
            answer = b""
            while received := connection.recv(1000):
                answer += received
        # uvicorn ends by the signal that it was sent, once it has shut down.
        assert served.process.wait(timeout=30) == -signal.SIGTERM
        assert "Application shutdown complete" in served.output()
        assert "Traceback" not in served.output()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n100")
    with serving(folder, "hello:app") as served:
        assert served.post("/deposits", deposit) == (200, 200)


def test_the_small_program_refuses_an_unknown_field(folder: Path) -> None:
    with serving(folder, "hello:app") as served:
        status, problem = served.post("/deposits", {"account_id": str(uuid4()), "amount": 1, "note": "x"})
    assert (status, problem["code"]) == (422, "validation")


def test_the_bank_refuses_notifies_and_projects(folder: Path) -> None:
    account = str(uuid4())
    with serving(folder, "bank:app") as served:
        assert served.post("/deposits", {"account_id": account, "amount": 100}) == (200, 100)
        status, problem = served.post("/withdrawals", {"account_id": account, "amount": 101})
        assert (status, problem["code"]) == (409, "overdrawn")
        assert served.post("/withdrawals", {"account_id": account, "amount": 30}) == (200, 70)
        assert served.get(f"/accounts/{account}/balance") == 70
        eventually(lambda: served.get("/balances") == {account: 70})
        eventually(lambda: f"{account}: 30 withdrawn, 70 left" in served.output())
        assert served.get("/balances?at_least=71") == {}


def test_what_the_bank_had_not_projected_before_a_kill_is_projected_after_it(folder: Path) -> None:
    accounts = [str(uuid4()) for _ in range(20)]
    with serving(folder, "bank:app") as served:
        for account in accounts:
            served.post("/deposits", {"account_id": account, "amount": 5})
        served.end(signal.SIGKILL)
    with serving(folder, "bank:app") as served:
        eventually(lambda: served.get("/balances") == dict.fromkeys(accounts, 5))
