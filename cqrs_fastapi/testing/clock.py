"""A clock for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class StandingClock:
    """Stands still until it is moved. Without `at` it stands at the moment in which it was made.

    It is the time of this process, which `Metadata` and handlers see. Leases and due times go by the database's clock,
    which nobody moves.
    """

    __slots__ = ("_now",)

    def __init__(self, at: datetime | None = None) -> None:
        """ValueError if `at` has no time zone."""
        self._now = _in_utc(at) if at is not None else datetime.now(UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Go on by so much; ValueError for a time that has passed."""
        self.move_to(self._now + by)

    def move_to(self, at: datetime) -> None:
        """ValueError for a time that has passed, or that has no time zone."""
        if (moved := _in_utc(at)) < self._now:
            raise ValueError(f"the clock stands at {self._now.isoformat()} and cannot go back to {moved.isoformat()}")
        self._now = moved


def _in_utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone; write datetime(..., tzinfo=UTC)")
    return at.astimezone(UTC)
