"""Programs that outlive the one who starts them, addressed by process id and start time."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.servers.errors import ServerError

_TAIL_LINES = 20
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Launch:
    """How a program is started, so that it can be started the same way again."""

    argv: tuple[str, ...]
    log: str
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process id with its start time: a number that the system gave to another program is never signalled."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _start_time(pid) or "ended")

    def alive(self) -> bool:
        return _start_time(self.pid) == self.started

    def stop(self, first: signal.Signals, *, grace: float) -> None:
        """Sends `first`, waits up to `grace` seconds, then kills. Returns when the process is gone."""
        for number, seconds in ((first, grace), (signal.SIGKILL, 10.0)):
            if not self.alive():
                return
            os.kill(self.pid, number)
            if self._gone_within(seconds):
                return
        raise ServerError(f"process {self.pid} survived SIGKILL for 10 s")

    def crash(self) -> None:
        """Kills the process and its children, as a power cut would; held first, so that it makes no more of them."""
        if not self.alive():
            return
        os.kill(self.pid, signal.SIGSTOP)
        family = [self, *self._children()]
        for member in family:
            member.stop(signal.SIGKILL, grace=10.0)

    def _children(self) -> list[Process]:
        listing = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [Process.of(int(pid)) for pid in listing.read_text().split()] if listing.exists() else []

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def run(argv: tuple[str, ...], *, user: str | None = None, seconds: float) -> None:
    """Runs a program to its end. Raises `ServerError` with the end of its output if it fails or takes too long."""
    try:
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=seconds,
            cwd="/",
            user=user,
            group=_group_of(user),
            extra_groups=None if user is None else (),
        )
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"{argv[0]} did not finish within {seconds:g} s: {_end_of(error.output or b'')}") from error
    except subprocess.CalledProcessError as error:
        raise ServerError(f"{argv[0]} failed with status {error.returncode}: {_end_of(error.output)}") from error


def spawn(launch: Launch) -> Process:
    """Starts a program in a session of its own, with no input and its output appended to the log.

    A shell stands between, so that the program is nobody's child: it needs no reaping by whoever started it.
    """
    with Path(launch.log).open("ab") as log:
        shell = subprocess.run(
            ("sh", "-c", '"$@" >&2 & echo $!', "sh", *launch.argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            check=True,
            cwd="/",
            user=launch.user,
            group=_group_of(launch.user),
            extra_groups=None if launch.user is None else (),
        )
    return Process.of(int(shell.stdout))


def wait_until(ready: Callable[[], bool], process: Process, *, what: str, log: str, seconds: float) -> None:
    """Returns as soon as `ready` says so. Raises `ServerError` when the process ends or the time is over."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not process.alive():
            raise ServerError(f"{what} ended before it was ready; its log ends with:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ServerError(f"{what} was not ready after {seconds:g} s; its log ends with:\n{tail(log)}")
        time.sleep(_POLL_SECONDS)


def tail(log: str) -> str:
    path = Path(log)
    return _end_of(path.read_bytes()) if path.exists() else "(no log)"


def _end_of(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (it printed nothing)"


def _group_of(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def _start_time(pid: int) -> str | None:
    """The start time of a running process in some fixed form, or None if it ended (a zombie has ended)."""
    if not Path("/proc/self/stat").exists():
        return _start_time_by_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _start_time_by_ps(pid: int) -> str | None:
    found = subprocess.run(
        ("ps", "-o", "stat=,lstart=", "-p", str(pid)), stdout=subprocess.PIPE, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if not found or found[0].startswith("Z") else found[1].strip()
