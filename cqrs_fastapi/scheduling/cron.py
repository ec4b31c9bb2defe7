"""Crontab lines as ticks: what a clock on somebody's wall says, in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cqrs_fastapi.scheduling.crontab import WallClockRule

_INSTANT = timedelta(microseconds=1)
_FIRST_WINDOW = timedelta(minutes=2)
_LONGEST_WINDOW = timedelta(days=366 * 9)  # between two 29ths of February there can be eight years


@dataclass(frozen=True, slots=True)
class Cron:
    """Five fields, `minute hour day month weekday`, read in `timezone`.

    When the clocks change, a rule for certain hours fires exactly once that day: at the end of the gap if its time is
    skipped, the first time if its time comes twice. A rule whose hour begins with `*` follows the time that passes.
    ValueError for a line or a time zone that cannot be read.
    """

    line: str
    timezone: str = "UTC"
    _rule: WallClockRule = field(init=False, repr=False, compare=False)
    _zone: tzinfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rule", WallClockRule(self.line))
        object.__setattr__(self, "_zone", zone_of(self.timezone))

    def latest(self, now: datetime) -> datetime | None:
        window = _FIRST_WINDOW
        while window < _LONGEST_WINDOW:
            tick = self.following(now - window)
            if tick is not None and tick <= now:
                return self._last(tick, now)
            window *= 4
        return None

    def following(self, moment: datetime) -> datetime | None:
        moment = moment.astimezone(UTC)
        return self._by_real_time(moment) if self._rule.follows_real_time else self._by_wall_time(moment)

    def _last(self, tick: datetime, now: datetime) -> datetime:
        while (later := self.following(tick)) is not None and later <= now:
            tick = later
        return tick

    def _by_wall_time(self, moment: datetime) -> datetime | None:
        """Each time on the wall is one moment, and later ones are never earlier moments."""
        wall = self._rule.first_from(self._wall(moment) + _INSTANT)
        while wall is not None:
            tick = self._moment(wall)
            if tick > moment:
                return tick
            # In a repeated hour the times on the wall came before `moment` already.
            wall = self._rule.first_from(wall + _INSTANT)
        return None

    def _by_real_time(self, moment: datetime) -> datetime | None:
        """Between two changes of the clocks, wall and UTC differ by a constant; search stretch by stretch."""
        start, offset = moment + _INSTANT, self._offset(moment + _INSTANT)
        while (wall := self._rule.first_from(start.replace(tzinfo=None) + offset)) is not None:
            tick = (wall - offset).replace(tzinfo=UTC)
            if self._offset(tick) == offset:
                return tick
            start = self._change(start, tick)
            offset = self._offset(start)
        return None

    def _moment(self, wall: datetime) -> datetime:
        """The first time it is so late on the wall; the end of the gap if it never is."""
        before, after = (wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        return self._change(after, before) if after < before else before

    def _change(self, low: datetime, high: datetime) -> datetime:
        """The moment between the two at which the clocks change."""
        offset = self._offset(low)
        while high - low > _INSTANT:
            middle = low + (high - low) / 2
            low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
        return high

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self._zone).utcoffset() or timedelta(0)

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None)


def zone_of(name: str) -> tzinfo:
    """The time zone of this name. UTC needs no time zone database, which small images lack."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"timezone={name!r} is not known here; write a name like 'Europe/Berlin', and install tzdata if the "
            "system has no time zone database"
        ) from error
