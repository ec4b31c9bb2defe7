"""Real processes for acceptance tests: servers that may be killed, and a client that remembers what it was promised."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

APPS = Path(__file__).parent / "apps"
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise AssertionError(f"waited {seconds} seconds in vain: {what}")
        time.sleep(0.02)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "CQRS_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'ledger.db'}",
        "CQRS_RELAY_POLL": "PT0.1S",
        "CQRS_RETRY_BACKOFF": "PT0.02S",
        "CQRS_DRAIN_TIMEOUT": "PT5S",
        **more,
    }


def is_running(pid: int) -> bool:
    """A zombie has ended, even while nobody has read how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Fork:
    """Starts servers quickly, one at a time, all on one port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.pid = folder, free_port(), 0
        self._log = (folder / "servers.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(APPS / "forking.py")],
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        assert self._answer() == "ready"

    def start(self, **more: str) -> None:
        assert self._process.stdin is not None
        order = {"port": self.port, "environment": {"DIE_AT": "", **more}}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._answer())

    def until_serving(self) -> None:
        until(lambda: status_of(self.port, "/health/live") == 200 or not is_running(self.pid), "the server serves")

    def end(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        until(lambda: not is_running(self.pid), "the server is gone")

    def close(self) -> None:
        if self.pid and is_running(self.pid):
            self.end(signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        # The group is this object's own: whatever was forked ends with it, also when a test has lost count.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._process.stdout.close()
        self._log.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def uvicorn_of(folder: Path, *arguments: str, **more: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Uvicorn as everybody starts it. What is left of it at the end is killed by its process id."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "ledger:app", "--port", str(port), "--app-dir", str(APPS)]
    with (folder / "uvicorn.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--no-access-log", *arguments],
            env=environment(folder, **more),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        try:
            yield process, port
        finally:
            for pid in [*(children_of(process.pid) if is_running(process.pid) else ()), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(10)


def status_of(port: int, path: str) -> int:
    try:
        return request(port, "GET", path)[0]
    except (OSError, http.client.HTTPException):
        return 0


def request(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Clients:
    """Threads that send commands without pause and write each acknowledged one to a file before the next."""

    def __init__(self, folder: Path, port: int, *, seed: int, threads: int = 3, pause: float = 0.005) -> None:
        self.file, self._port, self._pause = folder / "acknowledged", port, pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        ledgers = [UUID(int=number) for number in range(4)]
        self._threads = [
            threading.Thread(target=self._send, args=(random.Random(f"{seed}-{number}"), ledgers))  # noqa: S311
            for number in range(threads)
        ]
        self.file.touch()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def acknowledged(self) -> list[str]:
        return self.file.read_text().split()

    def _send(self, chance: random.Random, ledgers: list[UUID]) -> None:
        while not self._stop.is_set():
            command = str(uuid4())
            body = {"ledger": str(chance.choice(ledgers)), "command": command}
            try:
                status, _ = request(self._port, "POST", "/entries", body)
            except (OSError, http.client.HTTPException):
                self._stop.wait(0.05)
                continue
            if status == 200:
                with self._lock, self.file.open("a") as file:
                    file.write(f"{command}\n")
            self._stop.wait(self._pause)
