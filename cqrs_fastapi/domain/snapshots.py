"""When an aggregate is worth a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Loading:
    """How an aggregate was loaded. `base` is the version of the snapshot it was loaded from, 0 if there was none;
    `seconds` went into reading and folding its events, without the waiting for the database. `key_ids` are the keys of
    those whose data these events, and that snapshot, were encrypted with.
    """

    base: int
    seconds: float
    key_ids: frozenset[UUID] = frozenset()


NOT_LOADED = Loading(0, 0.0)
"""Of a new aggregate."""


class SnapshotPolicy(Protocol):
    """Asked after each commit that has changed the aggregate."""

    def is_due(self, version: int, loading: Loading) -> bool:
        """Whether a snapshot is to be taken of the aggregate, which is at `version` now."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """See `every`."""

    events: int

    def is_due(self, version: int, loading: Loading) -> bool:
        return version - loading.base >= self.events


@dataclass(frozen=True, slots=True)
class WhenLoadingTakes:
    """See `when_loading_takes`."""

    seconds: float

    def is_due(self, version: int, loading: Loading) -> bool:
        return loading.seconds >= self.seconds and version > loading.base


def every(events: int) -> SnapshotPolicy:
    """A snapshot with the commit after which there are so many events since the last one: `snapshots=every(100)`."""
    if events < 1:
        raise ValueError(f"a snapshot is taken every 1 or more events, not every {events}")
    return Every(events)


def when_loading_takes(limit: timedelta) -> SnapshotPolicy:
    """A snapshot after a commit of an aggregate whose events took so long to be decoded and folded.

    Waiting for the database is not counted: a busy one is not given more to write.
    `snapshots=when_loading_takes(timedelta(milliseconds=20))`
    """
    if limit <= timedelta(0):
        raise ValueError(f"loading takes longer than no time at all; {limit} would be always")
    return WhenLoadingTakes(limit.total_seconds())
