"""The processes that are tortured: started by the zygote, told apart by name, started again after whatever happened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Worker:
    """One place for a process; its number changes with each start. `up` is what the run wants, not what is."""

    name: str
    role: str
    command: tuple[str, ...]
    environment: dict[str, str]
    pid: int = 0
    up: bool = False
    stopped: bool = False
    starts: int = 0

    def alive(self) -> bool:
        return self.pid != 0 and is_running(self.pid)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(slots=True)
class Workers:
    """All of a run. Safe to use from several threads."""

    folder: Path
    mutation: str
    everyone: list[Worker]
    _zygote: subprocess.Popen[str] = field(init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        with (self.folder / "logs" / "zygote.log").open("w") as log:
            self._zygote = subprocess.Popen(
                [sys.executable, "-m", "tools.messaging_torture.zygote"],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._answer() == "ready", f"see {self.folder / 'logs' / 'zygote.log'}"

    def of(self, role: str) -> list[Worker]:
        return [worker for worker in self.everyone if worker.role == role]

    def start(self, worker: Worker) -> None:
        order = {
            "command": worker.command,
            "environment": worker.environment,
            "log": str(self.folder / "logs" / f"{worker.name}.log"),
            "mutation": self.mutation,
        }
        with self._turn:
            assert self._zygote.stdin is not None
            self._zygote.stdin.write(json.dumps(order) + "\n")
            self._zygote.stdin.flush()
            worker.pid = int(self._answer())
        worker.up, worker.stopped = True, False
        worker.starts += 1

    def end_all(self, seconds: float) -> list[str]:
        """SIGTERM to all; the names of those that had to be killed after that many seconds."""
        for worker in self.everyone:
            worker.up = False
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        ends = time.monotonic() + seconds
        while any(worker.alive() for worker in self.everyone) and time.monotonic() < ends:
            time.sleep(0.05)
        late = [worker for worker in self.everyone if worker.alive()]
        for worker in late:
            worker.signal(signal.SIGKILL)
        return [worker.name for worker in late]

    def close(self) -> None:
        """The group is this object's own: nothing that was forked outlives it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._zygote.pid, signal.SIGKILL)
        self._zygote.wait(10)
        for pipe in (self._zygote.stdin, self._zygote.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _answer(self) -> str:
        assert self._zygote.stdout is not None
        return self._zygote.stdout.readline().strip()
