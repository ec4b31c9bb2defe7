"""Holds what is in the table at the end against what was acknowledged and what was delivered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from uuid import UUID

from cqrs_fastapi.testing.torture.ledger import ACKNOWLEDGED, DELIVERED, REFUSED, STORED, Ledger


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the events table. `kind` is the type of the event, which tells the kind of its writer."""

    position: int
    message_id: UUID
    stream: str
    version: int
    kind: str


@dataclass(frozen=True, slots=True)
class Faults:
    """Each is a number of events (`overbooked`: of tags), and 0 where all is well."""

    lost: int
    """Committed and never delivered."""
    inverted: int
    """Delivered after a later version of the same stream."""
    repeated: int
    """Delivered once more."""
    phantom: int
    """Delivered, and not in the table."""
    missing: int
    """Acknowledged to its writer, and not in the table."""
    returned: int
    """Refused or rolled back, and yet in the table."""
    misnumbered: int
    """Not the next version of its stream in the order of positions, or last and not where the stream's row is."""
    overbooked: int
    """Tags with more events than the condition of their decisions allowed."""

    @property
    def any(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Verdict:
    """`longest_wait` is in seconds. `lost_by` tells the kinds of writers whose events were lost."""

    committed: int
    delivered: int
    faults: Faults
    longest_wait: float
    lost_by: dict[str, int]


class Judge:
    """Sees each event in the table, in the order of positions, and then each stream, after all others have ended."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._versions: dict[str, int] = {}
        self._committed = self._lost = self._misnumbered = self._returned = 0
        self._lost_by: Counter[str] = Counter()

    def see(self, row: Stored) -> None:
        self._committed += 1
        expected = self._versions.get(row.stream, 0) + 1
        self._misnumbered += row.version != expected
        self._versions[row.stream] = row.version
        known = self._ledger.store(row.message_id)
        if known is None or not known & DELIVERED:
            self._lost += 1
            self._lost_by[row.kind] += 1
        if known is not None and known & REFUSED:
            self._returned += 1

    def see_stream(self, stream: str, version: int) -> None:
        """A row of the table of streams, after all events."""
        self._misnumbered += self._versions.pop(stream, 0) != version

    def verdict(self, *, overbooked: int) -> Verdict:
        ledger = self._ledger
        faults = Faults(
            lost=self._lost,
            inverted=ledger.inverted,
            repeated=ledger.repeated,
            phantom=ledger.strangers + ledger.count(DELIVERED, DELIVERED | STORED),
            missing=ledger.count(ACKNOWLEDGED, ACKNOWLEDGED | STORED),
            returned=self._returned,
            misnumbered=self._misnumbered + len(self._versions),
            overbooked=overbooked,
        )
        delivered = ledger.count(DELIVERED, DELIVERED)
        return Verdict(self._committed, delivered, faults, ledger.longest_wait, dict(self._lost_by))
