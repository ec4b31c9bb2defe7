"""What every system sends: the n-th message of a stream, as a text. It imports nothing that is not everywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path


class FailsError(Exception):
    """A handler's error that goes away."""


def texts(events: int, streams: int) -> Iterator[tuple[int, str]]:
    """(stream, text), the streams in turn."""
    for at in range(events):
        yield at % streams, f"n{at // streams + 1}of{at % streams}"


def fault() -> str:
    """The fault to be done now: a process does it once, and no process after it."""
    wanted = os.environ.get("PEERS_FAULT", "")
    return "" if not wanted or Path(os.environ["PEERS_MARK"]).exists() else wanted


def die() -> None:
    """As a power cut would, and never again."""
    Path(os.environ["PEERS_MARK"]).touch()
    os.kill(os.getpid(), signal.SIGKILL)


class Handler:
    """Fails as it was told, then writes a line."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}
        which, _, times = os.environ.get("PEERS_FAILS", "never:0").partition(":")
        self._step, self._times = {"second": 2, "tenth": 10, "never": 0}[which], int(times)

    def __call__(self, text: str) -> None:
        number = int(text[1:].partition("of")[0])
        self._attempts[text] = self._attempts.get(text, 0) + 1
        if self._step and number % self._step == 0 and self._attempts[text] <= self._times:
            raise FailsError(f"{text} fails for the {self._attempts[text]}. time")
        with Path(os.environ["PEERS_OUT"]).open("a") as file:
            file.write(f"{text}\n")
