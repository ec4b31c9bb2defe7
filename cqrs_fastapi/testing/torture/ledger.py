"""What the writers were told and what the reader was given, one byte for each event.

The events of a run are numbered, and an event's number is a part of its message id. So millions of events cost millions
of bytes, and nothing has to be looked up.
"""

from __future__ import annotations

from collections import Counter
from uuid import UUID

ACKNOWLEDGED, REFUSED, DELIVERED, STORED = 1, 2, 4, 8
"""An event that is neither of the first two has an unknown outcome: only the table can tell."""

_LANE_BITS, _NUMBER_BITS = 16, 48
_RUN_SHIFT = _LANE_BITS + _NUMBER_BITS
_FAR = 10_000_000
"""A number that lies so far beyond those that are known was made by nobody."""


class Ledger:
    """`run` marks the ids of one run, a `lane` those of one process in it; `this_lane` is where new ids are made."""

    def __init__(self, run: int, this_lane: int = 0) -> None:
        self.run, self._this_lane = run, this_lane
        self._states: dict[int, bytearray] = {this_lane: bytearray()}
        self._acknowledged_at: dict[UUID, float] = {}
        self._last: dict[str, int] = {}
        self.outcomes: Counter[str] = Counter()
        """How many attempts ended in which way."""
        self.repeated = 0
        """Deliveries of an event that had been delivered."""
        self.inverted = 0
        """Deliveries of an event after a later one of its stream."""
        self.strangers = 0
        """Deliveries with an id that is none of this run's."""
        self.deliveries = 0
        self.longest_wait = 0.0
        """Seconds between the moment a writer knew of a commit and the delivery of its event."""

    def new_ids(self, count: int) -> tuple[UUID, ...]:
        states = self._states[self._this_lane]
        first = len(states)
        states.extend(bytes(count))
        lane = self.run << _RUN_SHIFT | self._this_lane << _NUMBER_BITS
        return tuple(UUID(int=lane | number) for number in range(first, first + count))

    def acknowledge(self, ids: tuple[UUID, ...], now: float) -> None:
        for one in ids:
            before = self._mark(one, ACKNOWLEDGED)
            if before is not None and not before & DELIVERED:
                self._acknowledged_at[one] = now

    def refuse(self, ids: tuple[UUID, ...]) -> None:
        """The writer was told that nothing of this was written, or has rolled it back itself."""
        for one in ids:
            self._mark(one, REFUSED)

    def deliver(self, one: UUID, stream: str, version: int, now: float) -> None:
        self.deliveries += 1
        before = self._mark(one, DELIVERED)
        if before is None:
            self.strangers += 1
        elif before & DELIVERED:
            self.repeated += 1
        else:
            self._deliver_first(one, stream, version, now)

    def store(self, one: UUID) -> int | None:
        """Note that the table holds it, and tell what was known of it before; None if it is none of this run's."""
        return self._mark(one, STORED)

    def count(self, wanted: int, mask: int) -> int:
        """How many events have, of the marks in `mask`, exactly those that are `wanted`."""
        return sum(count for state, count in self._tally().items() if state & mask == wanted)

    def adopt(self, lane: int, states: bytes, outcomes: dict[str, int]) -> None:
        """Take over what the writers of another process were told."""
        ours = self._states.setdefault(lane, bytearray())
        ours.extend(bytes(max(0, len(states) - len(ours))))
        for number, state in enumerate(states):
            ours[number] |= state
        self.outcomes.update(outcomes)

    def states(self) -> bytes:
        """What the writers of this process were told, for `adopt`."""
        return bytes(self._states[self._this_lane])

    def _deliver_first(self, one: UUID, stream: str, version: int, now: float) -> None:
        acknowledged_at = self._acknowledged_at.pop(one, now)
        self.longest_wait = max(self.longest_wait, now - acknowledged_at)
        last = self._last.get(stream, 0)
        if version < last:
            self.inverted += 1
        self._last[stream] = max(last, version)

    def _mark(self, one: UUID, mark: int) -> int | None:
        """Add a mark; the marks before, or None for a stranger."""
        place = self._place(one)
        if place is None:
            return None
        states, number = place
        before = states[number]
        states[number] = before | mark
        return before

    def _place(self, one: UUID) -> tuple[bytearray, int] | None:
        run, rest = divmod(one.int, 1 << _RUN_SHIFT)
        lane, number = divmod(rest, 1 << _NUMBER_BITS)
        if run != self.run:
            return None
        states = self._states.setdefault(lane, bytearray())
        if number >= len(states):
            if lane == self._this_lane or number > len(states) + _FAR:
                return None
            states.extend(bytes(number + 1 - len(states)))
        return states, number

    def _tally(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for states in self._states.values():
            found.update(states)
        return found
