"""What waits for its next attempt, in the memory of the relay that has tried. Another relay simply tries again.

A key is held by itself. A topic that nobody knows is held as a whole, and given up after its grace.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
AT_MOST = 5_000
"""Keys held at once. With so many it is the broker that fails, and nothing more is tried until one of them passes."""


@dataclass(slots=True)
class Hold:
    failures: int
    due: float
    reason: str


@dataclass(slots=True)
class Holds:
    """Times are those of `clock`, in seconds. Pauses double up to five seconds, each shortened by up to a half."""

    clock: Callable[[], float]
    jitter: Callable[[], float] = random.random
    keys: dict[str, Hold] = field(default_factory=dict)
    topics: dict[str, Hold] = field(default_factory=dict)
    unknown_since: dict[str, float] = field(default_factory=dict)

    def hold_key(self, name: str, reason: str) -> None:
        self._hold(self.keys, name, reason)

    def hold_topic(self, topic: str, reason: str) -> None:
        """Nobody knows the topic."""
        self.unknown_since.setdefault(topic, self.clock())
        self._hold(self.topics, topic, reason)

    def is_given_up(self, topic: str, grace: float) -> bool:
        """Whether the topic has been unknown for longer than its grace."""
        since = self.unknown_since.get(topic)
        return since is not None and self.clock() - since >= grace

    def passed(self, topics: Iterable[str], names: Iterable[str]) -> None:
        """Something of these topics and keys was acknowledged, or was given up."""
        for topic in topics:
            self.topics.pop(topic, None)
            self.unknown_since.pop(topic, None)
        if self.keys:
            for name in names:
                self.keys.pop(name, None)

    def waiting_keys(self) -> list[str]:
        """Those whose next attempt is not due."""
        now = self.clock()
        return [name for name, hold in self.keys.items() if hold.due > now]

    def waiting_topics(self) -> list[str]:
        now = self.clock()
        return [topic for topic, hold in self.topics.items() if hold.due > now]

    def due_in(self) -> float | None:
        """Seconds until the first of them is due; None if nothing is held."""
        due = [hold.due for hold in (*self.keys.values(), *self.topics.values())]
        return max(0.0, min(due) - self.clock()) if due else None

    @property
    def is_full(self) -> bool:
        return len(self.keys) >= AT_MOST and len(self.waiting_keys()) >= AT_MOST

    def forget_but(self, names: Container[str], topics: Container[str]) -> None:
        """Keep these only: of the others nothing is left to be sent."""
        self.keys = {name: hold for name, hold in self.keys.items() if name in names}
        self.topics = {topic: hold for topic, hold in self.topics.items() if topic in topics}
        self.unknown_since = {topic: since for topic, since in self.unknown_since.items() if topic in self.topics}

    def __bool__(self) -> bool:
        return bool(self.keys or self.topics)

    def _hold(self, holds: dict[str, Hold], name: str, reason: str) -> None:
        failures = holds[name].failures + 1 if name in holds else 1
        holds[name] = Hold(failures, self.clock() + pause_after(failures, self.jitter), reason)


def pause_after(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many failures in a row."""
    full = min(LONGEST_PAUSE, FIRST_PAUSE * float(2 ** min(failures - 1, 16)))
    return full * (1 - jitter() / 2)
