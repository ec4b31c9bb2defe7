"""The command `python -m tools.models`: searches all interleavings of the protocols in `models/` with spin.

A configuration that is right must be searched to the end without an error. One that lacks a rule of the protocol must
break the promise that is named for it: any other error is a defect of the model, and counts as a failure.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).parents[1] / "models"
PROGRAMS = ("spin", "gcc", "cc")  # spin itself calls gcc, as its preprocessor
AT_ONCE = 2
DEPTH = 100_000
MEGABYTES = 6_000
SECONDS = 900

_ERROR = re.compile(
    r"^pan:\d+: (?:assertion violated\s+(?:-\s+)?(?:!\((?P<promise>\w+)\)|(?P<other>.*?))|(?P<state>.*?)) \(at depth"
)
_STATES = re.compile(r"^ *(?P<states>[\d.e+]+) states, stored$")
_UNFINISHED = ("max search depth too small", "out of memory", "reached -DMEMLIM bound", "max number of", "aborting")


class ModelError(Exception):
    """Nothing can be searched on this machine."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A model with its names; `breaks` is the promise that the search must find broken, None for a right protocol."""

    model: str
    names: tuple[str, ...]
    breaks: str | None = None
    large: bool = False

    def __str__(self) -> str:
        return " ".join((self.model, *self.names))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search came to: it found `error`, or it did not finish for the reason `unfinished`, or neither."""

    states: int | None = None
    error: str | None = None
    unfinished: str | None = None

    def is_expected(self, configuration: Configuration) -> bool:
        return self.unfinished is None and self.error == configuration.breaks

    def __str__(self) -> str:
        if self.unfinished is not None:
            return f"not finished: {self.unfinished}"
        return "right" if self.error is None else f"broken: {self.error}"


def _of(model: str, names: str, breaks: str | None = None, *, large: bool = False) -> Configuration:
    return Configuration(model, tuple(names.split()), breaks, large)


CONFIGURATIONS = (
    _of("reader", "WRITERS=2 EVENTS=2"),
    _of("reader", "WRITERS=3 EVENTS=1"),
    _of("reader", "TRANSACTIONS=2 EVENTS=1"),
    _of("reader", "SCAN_BY_PARTITION"),
    _of("reader", "BATCH"),
    _of("reader", "SAVEPOINT EVENTS=1"),
    _of("reader", "BATCH SAVEPOINT EVENTS=1"),
    _of("reader", "PREPARED"),
    _of("reader", "PREPARED SCAN_BY_PARTITION"),
    _of("reader", "WRONG_NO_FLOOR", "skipped"),
    _of("reader", "WRONG_DRAW_BEFORE_FLOOR", "skipped"),
    _of("reader", "WRONG_DRAW_BEFORE_STREAM_LOCK", "out_of_order"),
    _of("reader", "WRONG_RELEASE_BEFORE_COMMIT", "skipped"),
    _of("reader", "WRONG_FLOOR_ONCE_PER_TRANSACTION SAVEPOINT", "skipped"),
    _of("reader", "WRONG_SEQUENCE_CACHE TRANSACTIONS=2 EVENTS=1", "skipped"),
    _of("reader", "WRONG_WRITER_READS_RAW_SEQUENCE", "skipped"),
    _of("reader", "WRONG_READER_READS_RAW_SEQUENCE", "skipped"),
    _of("reader", "WRONG_FLOORS_BEFORE_HEAD", "skipped"),
    _of("reader", "WRONG_ROWS_BEFORE_FLOORS", "skipped"),
    _of("reader", "WRONG_PREPARED_OVERLOOKED PREPARED", "skipped"),
    _of("reader", "WRONG_SCAN_BY_HOLDER PREPARED", "skipped"),
    _of("reader", "WRONG_CHECKPOINT_FALLS", "out_of_order"),
    _of("reader", "BATCH SCAN_BY_PARTITION", large=True),
    _of("reader", "WRITERS=3 EVENTS=1 BATCH", large=True),
    _of("reader", "WRITERS=3 EVENTS=1 PREPARED", large=True),
    _of("reader", "SAVEPOINT EVENTS=2", large=True),
    _of("conditions", "P_SET DECIDERS=1 PLAIN=2"),
    _of("conditions", "P_SET DECIDERS=2 PLAIN=1"),
    _of("conditions", "P_SET DECIDERS=3 PLAIN=0"),
    _of("conditions", "P_SET DECIDERS=1 PLAIN=3", large=True),
    _of("conditions", "P_SET DECIDERS=2 PLAIN=2", large=True),
    _of("conditions", "P_MAX", "overlooked"),
    _of("conditions", "P_W", "needless"),
    _of("conditions", "P_SET WRONG_NO_FLOORS", "overlooked"),
    _of("conditions", "P_SET WRONG_CONDITION_NOT_LOCKED", "overlooked"),
    _of("conditions", "P_SET WRONG_PLAIN_APPEND_NOT_LOCKED", "overlooked"),
    _of("conditions", "P_SET WRONG_CHECK_BEFORE_LOCKS", "overlooked"),
    _of("conditions", "P_SET WRONG_UNLOCK_BEFORE_COMMIT", "overlooked"),
    _of("conditions", "P_SET WRONG_LOCKS_UNSORTED", "invalid end state"),
    _of("gap_evidence", "OWN_ID WRITERS=3"),
    _of("gap_evidence", "NEXT_ID WRITERS=3"),
    _of("gap_evidence", "WRONG_XMAX", "skipped"),
    _of("gap_evidence", "OWN_ID WRONG_POSITION_BEFORE_ID", "skipped"),
)


def judge(printed: str) -> Outcome:
    """Reads what `pan` has printed. A search counts as finished only if it says so and says nothing to the contrary."""
    lines = printed.strip().splitlines()
    states = next((int(float(match["states"])) for line in lines if (match := _STATES.match(line))), None)
    for line in lines:
        if match := _ERROR.match(line):
            return Outcome(states, error=match["promise"] or match["other"] or match["state"])
    for line in lines:
        if any(sign in line for sign in _UNFINISHED):
            return Outcome(states, unfinished=line.strip())
    if states is None or "errors: 0" not in printed or "Search not completed" in printed:
        return Outcome(states, unfinished=lines[-1].strip() if lines else "nothing was printed")
    return Outcome(states)


def search(configuration: Configuration) -> Outcome:
    """Works in a folder of its own, which is gone afterwards with all that spin and the compiler have made in it."""
    source = MODELS / f"{configuration.model}.pml"
    # Where an error comes early, compiling takes longer than searching.
    effort = "-O1" if configuration.breaks is None else "-O0"
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        for command in (
            ("spin", "-a", *(f"-D{name}" for name in configuration.names), str(source)),
            ("cc", "-w", effort, "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEGABYTES}", "-o", "pan", "pan.c"),
        ):
            made = _run(command, folder)
            if made.returncode != 0:
                first, _, _ = made.stdout.partition("\n")
                return Outcome(unfinished=f"{command[0]} failed: {first}")
        try:
            return judge(_run(("./pan", f"-m{DEPTH}"), folder, seconds=SECONDS).stdout)
        except subprocess.TimeoutExpired:
            return Outcome(unfinished=f"stopped after {SECONDS} seconds")


def _run(command: Sequence[str], folder: str, *, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds,
    )


def report(configurations: Iterable[Configuration]) -> bool:
    """Prints a line for each search as it ends, in the order given. True if every outcome was the expected one."""
    print(f"{'configuration':<58} {'states':>12} {'seconds':>8}  verdict", flush=True)
    expected = True
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for configuration, outcome, seconds in pool.map(_timed, configurations):
            states = "" if outcome.states is None else f"{outcome.states:,}"
            good = outcome.is_expected(configuration)
            remark = "" if good else f"  UNEXPECTED, should be {Outcome(error=configuration.breaks)}"
            print(f"{configuration!s:<58} {states:>12} {seconds:>8.1f}  {outcome}{remark}", flush=True)
            expected = expected and good
    return expected


def _timed(configuration: Configuration) -> tuple[Configuration, Outcome, float]:
    start = time.monotonic()
    return configuration, search(configuration), time.monotonic() - start


def require_programs() -> None:
    """Raises `ModelError` if spin or a C compiler is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise ModelError(f"{' and '.join(missing)} cannot be found; run: apt-get install spin gcc")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, or 1 if an outcome was not the expected one or nothing could be searched."""
    parser = argparse.ArgumentParser(prog="python -m tools.models", description="check the models of the protocols")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="what takes a minute or two (the default)")
    size.add_argument("--all", action="store_true", help="the larger configurations too")
    options = parser.parse_args(arguments)
    try:
        require_programs()
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    chosen = [one for one in CONFIGURATIONS if options.all or not one.large]
    return 0 if report(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
