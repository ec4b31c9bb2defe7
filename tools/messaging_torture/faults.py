"""What is done to the processes and servers, at random from a seed; each begin and end is a line in `faults.jsonl`."""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import asyncpg

from tools.messaging_checker.written import FAULTS
from tools.messaging_torture.plan import LEASE_SECONDS
from tools.messaging_torture.stage import READING, WRITING, Stage, ask
from tools.messaging_torture.workers import Worker, Workers
from tools.servers import Name

WEIGHTS = {
    "kill relay": 14,
    "stop relay": 10,
    "term relay": 8,
    "kill consumer": 10,
    "stop consumer": 7,
    "term consumer": 6,
    "kill writer": 7,
    "stop writer": 4,
    "term writer": 4,
    "terminate writing": 12,
    "terminate reading": 10,
    "restart kafka": 2,
    "crash kafka": 2,
    "restart postgres": 4,
    "crash postgres": 4,
}
"""How often each is drawn. Servers recover for seconds, so each has a least pause between two of its faults as well."""

SERVER_PAUSE = {"kafka": 20.0, "postgres": 8.0}
TERM_SECONDS = 20.0
_TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity "
    "WHERE application_name = $1 ORDER BY random() LIMIT $2) AS victims"
)


@dataclass(slots=True)
class Nemesis:
    """Runs in the thread of whoever calls `run`. What must happen later (wake, start again) waits in a heap."""

    stage: Stage
    workers: Workers
    counts: Counter[str] = field(default_factory=Counter)
    ended_alone: list[str] = field(default_factory=list)
    would_not_end: list[str] = field(default_factory=list)
    _chance: random.Random = field(init=False)
    _file: int = field(init=False)
    _ids: Iterator[int] = field(default_factory=itertools.count)
    _later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _server_at: dict[str, float] = field(default_factory=dict)
    _server: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._chance = random.Random(f"{self.stage.plan.seed}-faults")  # noqa: S311  # it is for no secret
        file = self.stage.plan.folder / FAULTS
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def run(self, seconds: float, tick: Callable[[], None]) -> None:
        """Faults for so long; `tick` is called about every 20 ms."""
        every, ends = self.stage.plan.every, time.monotonic() + seconds
        due = time.monotonic() + self._chance.expovariate(1 / every) if every else ends
        while (now := time.monotonic()) < ends:
            self._do_what_is_due(now)
            self._revive()
            if now >= due:
                due = now + self._chance.expovariate(1 / every) if self._one() else now + 0.1
            tick()
            time.sleep(0.02)

    def heal(self) -> None:
        """Everything runs again, and nothing is done any more."""
        while self._later or (self._server is not None and self._server.is_alive()):
            self._do_what_is_due(time.monotonic())
            time.sleep(0.02)
        self._revive()

    def watch(self) -> None:
        """Start again what has ended by itself, as whoever looks after processes would."""
        self._revive()

    def _one(self) -> bool:
        """Draw and do one fault; False if what was drawn is not possible now."""
        what = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        verb, whom = what.split()
        match verb, whom:
            case (("kill" | "stop" | "term"), _):
                done = self._to_process(verb, whom)
            case (("restart" | "crash"), ("kafka" | "postgres")):
                done = self._to_server(verb, whom)
            case _:
                done = self._to_back_ends(whom)
        self.counts[what] += done
        return done

    def _to_process(self, verb: str, role: str) -> bool:
        able = [one for one in self.workers.of(role) if one.up and not one.stopped and one.alive()]
        if not able:
            return False
        worker = self._chance.choice(able)
        {"kill": self._kill, "stop": self._stop, "term": self._term}[verb](worker)
        return True

    def _kill(self, worker: Worker) -> None:
        number = self._begin("kill", worker.role)
        worker.up = False
        worker.signal(signal.SIGKILL)
        self._after(self._chance.uniform(0.1, 1.0), lambda: self._start_again(worker, number))

    def _stop(self, worker: Worker) -> None:
        """Longer than any lease, so that it wakes up as an owner of what others own by now."""
        number = self._begin("stop", worker.role)
        worker.stopped = True
        worker.signal(signal.SIGSTOP)

        def wake() -> None:
            worker.signal(signal.SIGCONT)
            worker.stopped = False
            self._end(number)

        self._after(LEASE_SECONDS * self._chance.uniform(1.1, 2.0), wake)

    def _term(self, worker: Worker) -> None:
        number, gives_up = self._begin("term", worker.role), time.monotonic() + TERM_SECONDS
        worker.up = False
        worker.signal(signal.SIGTERM)

        def look() -> None:
            if not worker.alive():
                self._start_again(worker, number)
                return
            if time.monotonic() > gives_up:
                self.would_not_end.append(worker.name)
                worker.signal(signal.SIGKILL)
            self._after(0.1, look)

        self._after(0.1, look)

    def _start_again(self, worker: Worker, number: int) -> None:
        self.workers.start(worker)
        self._end(number)

    def _to_server(self, verb: str, whom: str) -> bool:
        """In a thread of its own, since it takes seconds, in which other faults go on."""
        name: Name = "kafka" if whom == "kafka" else "postgres"
        if self._server is not None and self._server.is_alive():
            return False
        if time.monotonic() - self._server_at.get(name, 0.0) < SERVER_PAUSE[name]:
            return False
        number = self._begin(verb, name)

        def restart() -> None:
            self.stage.servers.restart(name, crash=verb == "crash")
            self._server_at[name] = time.monotonic()
            self._end(number)

        self._server = threading.Thread(target=restart, name=f"{verb} {name}")
        self._server.start()
        return True

    def _to_back_ends(self, whom: str) -> bool:
        url, service = (self.stage.writing, WRITING) if whom == "writing" else (self.stage.reading, READING)
        try:
            gone = len(ask(url, _TERMINATE, service, self._chance.randint(1, 6)))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False  # the server is away just now
        if gone:
            self._end(self._begin("terminate", whom, count=gone))
        return gone > 0

    def _revive(self) -> None:
        """A process that ended unasked is no fault of ours: it is written down, and started again."""
        for worker in self.workers.everyone:
            if worker.up and not worker.alive():
                self.ended_alone.append(worker.name)
                number = self._begin("ended", worker.role)
                worker.up = False
                self._after(0.5, lambda worker=worker, number=number: self._start_again(worker, number))  # type: ignore[misc]

    def _after(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._ids), work))

    def _do_what_is_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2]()

    def _begin(self, kind: str, role: str, *, count: int = 1) -> int:
        number = next(self._ids)
        self._write({"what": "begin", "id": number, "kind": kind, "role": role, "count": count})
        return number

    def _end(self, number: int) -> None:
        self._write({"what": "end", "id": number})

    def _write(self, line: dict[str, object]) -> None:
        os.write(self._file, json.dumps({**line, "at": time.time()}).encode() + b"\n")
