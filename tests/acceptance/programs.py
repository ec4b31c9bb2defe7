"""Programs of this repository as processes, on free ports and private databases, stopped by their process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Program:
    """One running process; what it printed is in `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = 30) -> int:
        """Send the signal to this process alone and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """As a power cut would: the process and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def printed(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Stage:
    """Where programs run: a folder for their logs and the environment they share."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self, *command: str, **environment: str) -> Iterator[Program]:
        """Start `command` in the repository; whatever happens, nothing of it is left running."""
        log = self.folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CQRS_", "SHIPPING_"))}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**clean, "PYTHONUNBUFFERED": "1", **self.environment, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        program = Program(process, log)
        try:
            yield program
        finally:
            program.kill()

    def run(self, *command: str, seconds: float = 120, **environment: str) -> str:
        """Run to the end and return what it printed; an AssertionError with it if it failed."""
        with self.running(*command, **environment) as program:
            status = program.process.wait(seconds)
            assert status == 0, f"{' '.join(command)} ended with {status}:\n{program.printed()}"
            return program.printed()

    def uvicorn(self, target: str, port: int, *options: str) -> tuple[str, ...]:
        return (str(BIN / "uvicorn"), target, "--port", str(port), "--no-access-log", *options)


def until_ready(program: Program, port: int, *, path: str = "/health/ready", seconds: float = 60) -> None:
    """Wait until it answers 200; if it ends before, an AssertionError with what it printed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert program.process.poll() is None, f"it ended with {program.process.returncode}:\n{program.printed()}"
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"not ready after {seconds} seconds:\n{program.printed()}")
