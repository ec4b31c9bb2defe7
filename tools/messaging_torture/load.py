"""Clients that send batches of commands and write down what they asked and what they heard, before and after."""

from __future__ import annotations

import bisect
import http.client
import itertools
import json
import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.messaging_checker.written import HISTORY
from tools.messaging_torture.plan import Plan

_SECONDS = 15.0
_SKEW = 0.9
_REFUSED, _POISON = 0.02, 0.01


@dataclass(slots=True)
class Load:
    """Threads of this process, which nobody kills. Keys are drawn by Zipf's law, so that some are hot."""

    plan: Plan
    ports: Sequence[int]
    _file: int = field(init=False)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _weights: list[float] = field(init=False)
    acknowledged: int = 0

    def __post_init__(self) -> None:
        file = self.plan.folder / HISTORY
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        shares = (1 / rank**_SKEW for rank in range(1, self.plan.keys + 1))
        self._weights = list(itertools.accumulate(shares))

    def start(self) -> None:
        for client in range(1, self.plan.clients + 1):
            thread = threading.Thread(target=self._run, args=(client,), name=f"client {client}")
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Returns when the last answer has come or is given up."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        os.close(self._file)

    def _run(self, client: int) -> None:
        chance = random.Random(f"{self.plan.seed}-client-{client}")  # noqa: S311  # it is for no secret
        pause = self.plan.batch * self.plan.clients / self.plan.rate
        due = time.monotonic() + chance.uniform(0, pause)
        for seq in itertools.count(1, self.plan.batch):
            if self._ended.wait(max(0.0, due - time.monotonic())):
                return
            # What could not be sent in its time is not made up for: a system that was away meets no flood.
            due = max(due + pause, time.monotonic())
            batch = [self._command(chance, client, seq + at) for at in range(self.plan.batch)]
            self._write([{"what": "invoke", **command} for command in batch])
            outcomes = self._send(chance.choice(self.ports), batch)
            self.acknowledged += outcomes.count("ok")  # a lost update here costs a figure on the screen
            self._write(
                [
                    {"what": outcome, "client": client, "seq": one["seq"]}
                    for one, outcome in zip(batch, outcomes, strict=True)
                ]
            )

    def _command(self, chance: random.Random, client: int, seq: int) -> dict[str, Any]:
        key = bisect.bisect(self._weights, chance.uniform(0, self._weights[-1])) + 1
        if chance.random() < _POISON:
            key = self.plan.poison_key
        parts = chance.choices((1, 2, 3), (80, 15, 5))[0]
        refused = chance.random() < _REFUSED
        return {"client": client, "seq": seq, "key": key, "parts": parts, "refused": refused}

    def _send(self, port: int, batch: list[dict[str, Any]]) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        try:
            connection.connect()
        except OSError:
            time.sleep(0.05)
            return ["fail"] * len(batch)  # nobody has heard it
        try:
            connection.request("POST", "/batches", json.dumps(batch), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = json.loads(answer.read())
            return said if answer.status == http.client.OK else ["unknown"] * len(batch)
        except (OSError, http.client.HTTPException, ValueError):
            return ["unknown"] * len(batch)
        finally:
            connection.close()

    def _write(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps({**line, "at": time.time()}) + "\n" for line in lines)
        os.write(self._file, text.encode())
