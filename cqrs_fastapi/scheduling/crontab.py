"""The five fields of a crontab line, in the words of the library that finds the dates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from apscheduler.triggers.cron import CronTrigger

FIELDS = ("minute", "hour", "day", "month", "day_of_week")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_EXAMPLE = "write five fields, for instance '0 2 * * *' (02:00 every day)"


class WallClockRule:
    """When a crontab line fires on a clock on the wall, which knows no time zone and no summer time.

    Numbers of weekdays are cron's (0 and 7 are Sunday). If day and weekday are both restricted, either is enough, as
    cron has it. ValueError for a line that cannot be read or names no day that exists.
    """

    __slots__ = ("_alternatives", "follows_real_time")

    def __init__(self, line: str) -> None:
        values = line.split()
        if len(values) != len(FIELDS):
            raise ValueError(f"cron={line!r} has {len(values)} fields; {_EXAMPLE}")
        fields: dict[str, str] = dict(zip(FIELDS, (value.lower() for value in values), strict=True))
        self.follows_real_time = fields["hour"].startswith("*")
        """Such a rule means "every so often", not a time of the day."""
        self._alternatives = [_dates(line, alternative) for alternative in _alternatives(line, fields)]
        if self.first_from(datetime(2000, 1, 1)) is None:  # noqa: DTZ001  # a wall clock
            raise ValueError(f"cron={line!r} never fires: no such day exists")

    def first_from(self, wall: datetime) -> datetime | None:
        """The first time that is not before `wall`. Both are without a time zone."""
        found: list[datetime] = []
        for dates in self._alternatives:
            # Taken for UTC, a wall clock goes on without leaps, in which the library would lose its way.
            date = dates.get_next_fire_time(None, wall.replace(tzinfo=UTC))
            if date is not None:
                found.append(date.replace(tzinfo=None))
        return min(found, default=None)


def _alternatives(line: str, fields: dict[str, str]) -> list[dict[str, str]]:
    both_restricted = not fields["day"].startswith("*") and not fields["day_of_week"].startswith("*")
    fields = {**fields, "day_of_week": _weekdays(line, fields["day_of_week"])}
    if not both_restricted:
        return [fields]
    return [{**fields, "day": "*"}, {**fields, "day_of_week": "*"}]


def _dates(line: str, fields: dict[str, str]) -> Any:
    try:
        return CronTrigger(**fields, timezone=UTC)
    except (ValueError, TypeError) as error:
        raise ValueError(f"cron={line!r} cannot be read: {error}; {_EXAMPLE}") from error


def _weekdays(line: str, field: str) -> str:
    """From cron's numbers (Sunday is 0 and 7) to names, since the library counts from Monday."""
    if field == "*":
        return field
    days = sorted({day for part in field.split(",") for day in _days_of(line, part)})
    return ",".join(_DAYS[day] for day in days)


def _days_of(line: str, part: str) -> Iterator[int]:
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    begin, end = (0, 6) if first == "*" else (_day(line, first), _day(line, last or first))
    if slash and not dash:
        end = 6
    if begin > end or (slash and not (step.isdecimal() and int(step) > 0)):
        raise ValueError(f"cron={line!r} has the weekdays {part!r}; write a range like 1-5, or a list like 6,0")
    return (day % 7 for day in range(begin, end + 1, int(step) if slash else 1))


def _day(line: str, text: str) -> int:
    if text in _DAYS:
        return _DAYS.index(text)
    if text.isdecimal() and int(text) <= len(_DAYS):
        return int(text)
    raise ValueError(f"cron={line!r} has the weekday {text!r}; write 0 (Sunday) to 6, or {', '.join(_DAYS)}")
