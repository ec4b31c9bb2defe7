"""One run: start everything, load and faults, heal, drain, end everything, let the checker judge."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tools.messaging_checker.evidence import Terms
from tools.messaging_checker.written import TERMS, UNFINISHED, VERDICT
from tools.messaging_torture.faults import Nemesis
from tools.messaging_torture.load import Load
from tools.messaging_torture.plan import PARTITIONS, RELAY_HANDS, Plan
from tools.messaging_torture.settling import drain
from tools.messaging_torture.stage import Stage, plain, stage_of
from tools.messaging_torture.workers import ROOT, Workers
from tools.servers import Servers

_START_SECONDS = 60.0
_END_SECONDS = 30.0
_TOLD_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `broken` counts broken promises by name; `said` is all that the checker printed."""

    plan: Plan
    figures: dict[str, int]
    broken: dict[str, int]
    said: str
    seconds: float
    drained_after: float
    faults: dict[str, int] = field(default_factory=dict)
    ended_alone: tuple[str, ...] = ()

    @property
    def is_broken(self) -> bool:
        return any(self.broken.values())


def torture(plan: Plan, servers: Servers, tell: Callable[[str], None]) -> Outcome:
    """Raises RuntimeError if the processes do not come up, or if the checker itself fails."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    _write_terms(plan)
    with stage_of(plan, servers) as stage:
        workers = Workers(plan.folder, plan.mutation, stage.workers())
        try:
            return _tortured(plan, stage, workers, tell)
        finally:
            workers.close()


def _tortured(plan: Plan, stage: Stage, workers: Workers, tell: Callable[[str], None]) -> Outcome:
    _start(stage, workers)
    began, nemesis, load = time.monotonic(), Nemesis(stage, workers), Load(plan, stage.writer_ports)
    load.start()
    try:
        nemesis.run(plan.seconds, _Told(tell, nemesis, load, began))
    finally:
        nemesis.heal()
        load.stop()
    seconds = time.monotonic() - began
    tell(f"healed after {seconds:.0f} s; draining")
    drained_after, unfinished = drain(stage, nemesis.watch, tell)
    late = workers.end_all(_END_SECONDS)
    unfinished += [f"process {name} did not end on SIGTERM" for name in (*nemesis.would_not_end, *late)]
    _append(plan, unfinished)
    figures, broken, said = _judged(stage)
    alone = tuple(nemesis.ended_alone)
    return Outcome(plan, figures, broken, said, seconds, drained_after, dict(nemesis.counts), alone)


@dataclass(slots=True)
class _Told:
    tell: Callable[[str], None]
    nemesis: Nemesis
    load: Load
    began: float
    due: float = 0.0

    def __call__(self) -> None:
        now = time.monotonic() - self.began
        if now >= self.due:
            self.due = now + _TOLD_EVERY
            self.tell(f"{now:5.0f} s  {self.nemesis.counts.total()} faults, {self.load.acknowledged} acknowledged")


def _start(stage: Stage, workers: Workers) -> None:
    for worker in workers.everyone:
        workers.start(worker)
    deadline = time.monotonic() + _START_SECONDS
    while not all(_ready(port) for port in stage.writer_ports):
        if time.monotonic() > deadline or not all(worker.alive() for worker in workers.everyone):
            gone = [worker.name for worker in workers.everyone if not worker.alive()]
            raise RuntimeError(f"the processes did not come up (ended: {gone}); see {stage.plan.folder / 'logs'}")
        time.sleep(0.1)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004
    except OSError:
        return False


def _write_terms(plan: Plan) -> None:
    terms = Terms(
        poison_key=plan.poison_key,
        relays=plan.relays,
        consumers=plan.consumers,
        relay_batch=RELAY_HANDS * plan.relay_batch,
        in_flight=PARTITIONS * plan.at_once,
    )
    (plan.folder / TERMS).write_text(json.dumps(asdict(terms)))


def _append(plan: Plan, unfinished: Iterable[str]) -> None:
    lines = [json.dumps({"what": one}) + "\n" for one in unfinished]
    (plan.folder / UNFINISHED).write_text("".join(lines))


def _judged(stage: Stage) -> tuple[dict[str, int], dict[str, int], str]:
    """By a process that has imported nothing of the framework."""
    where = {"writing": plain(stage.writing), "reading": plain(stage.reading), "kafka": stage.kafka}
    options = [word for name, value in {**where, "topic": stage.topic}.items() for word in (f"--{name}", value)]
    done = subprocess.run(
        [sys.executable, "-m", "tools.messaging_checker", str(stage.plan.folder), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    verdict = stage.plan.folder / VERDICT
    if not verdict.exists():
        raise RuntimeError(f"the checker failed:\n{done.stdout}{done.stderr}")
    told: dict[str, Any] = json.loads(verdict.read_text())
    return told["figures"], told["broken"], done.stdout


def end_by_signal() -> None:
    """SIGTERM ends a run as Ctrl-C does, also where that is ignored (a shell's background): all is stopped."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
