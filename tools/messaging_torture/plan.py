"""What a run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PARTITIONS = 6
RELAY_HANDS = 2
"""A relay sends one batch while it deletes another."""
LEASE_SECONDS = 3.0
"""The longest lease of any worker: a process that stands still for longer has lost what it held."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`rate` is commands per second, `every` the mean number of seconds between two faults; 0 is no fault at all.

    `at_once` is how many keys of a partition a consumer works on at once. At the end it is waited for `drain_seconds`,
    or until nothing has moved for `still_seconds`.
    """

    seed: int
    seconds: float
    folder: Path
    every: float = 1.0
    rate: float = 200.0
    clients: int = 12
    batch: int = 10
    keys: int = 400
    writers: int = 2
    relays: int = 4
    consumers: int = 3
    relay_batch: int = 5
    at_once: int = 8
    mutation: str = ""
    drain_seconds: float = 600.0
    still_seconds: float = 40.0

    @property
    def poison_key(self) -> int:
        """Beside the others, so that what is parked behind poison is nobody else's."""
        return self.keys + 1
