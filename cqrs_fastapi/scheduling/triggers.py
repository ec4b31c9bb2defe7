"""Rules from which the ticks of a job follow. They know no present and no process, so every process finds the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORTEST_INTERVAL = timedelta(milliseconds=100)


class Trigger(Protocol):
    """A set of moments in UTC."""

    def latest(self, now: datetime) -> datetime | None:
        """The last tick that is not after `now`; None if there is none."""
        ...

    def following(self, moment: datetime) -> datetime | None:
        """The first tick that is after `moment`; None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """Ticks at the multiples of `interval` since 1970, wherever and whenever a process starts.

    Days therefore begin at midnight UTC, and weeks on a Thursday; cron knows local days. ValueError for an interval
    shorter than a tenth of a second.
    """

    interval: timedelta

    def __post_init__(self) -> None:
        if self.interval < SHORTEST_INTERVAL:
            raise ValueError(f"every={self.interval!r} is shorter than 100 ms; a job that never rests is a worker")

    def latest(self, now: datetime) -> datetime | None:
        return now.astimezone(UTC) - (now - EPOCH) % self.interval

    def following(self, moment: datetime) -> datetime | None:
        return self.latest(moment + self.interval)


@dataclass(frozen=True, slots=True)
class At:
    """One tick. ValueError for a time without a time zone."""

    moment: datetime

    def __post_init__(self) -> None:
        if self.moment.tzinfo is None:
            raise ValueError(f"at={self.moment!r} has no time zone; write at={self.moment!r}.replace(tzinfo=UTC)")
        object.__setattr__(self, "moment", self.moment.astimezone(UTC))

    def latest(self, now: datetime) -> datetime | None:
        return self.moment if self.moment <= now else None

    def following(self, moment: datetime) -> datetime | None:
        return self.moment if self.moment > moment else None
