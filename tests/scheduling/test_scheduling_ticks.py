"""When jobs tick: rules that every process reads alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cqrs_fastapi.scheduling.cron import Cron
from cqrs_fastapi.scheduling.triggers import EPOCH, At, Every, Trigger

BERLIN = "Europe/Berlin"


def ticks(trigger: Trigger, after: datetime, count: int) -> list[str]:
    """The next ticks, as `MM-DD HH:MM` in UTC."""
    found: list[datetime] = []
    while len(found) < count and (tick := trigger.following(found[-1] if found else after)) is not None:
        found.append(tick)
    return [f"{tick:%m-%d %H:%M}" for tick in found]


@pytest.mark.parametrize("interval", [timedelta(milliseconds=200), timedelta(seconds=7), timedelta(hours=1)])
def test_two_schedulers_started_at_different_times_find_the_same_ticks(interval: timedelta) -> None:
    every, start = Every(interval), datetime(2026, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC)
    later_start = start + interval / 3

    first = [every.following(start)]
    second = [every.following(later_start)]
    while len(first) < 20:
        first.append(every.following(first[-1] or start))
        second.append(every.following(second[-1] or start))

    assert len(set(first) & set(second)) >= 19
    assert all(tick is not None and (tick - EPOCH) % interval == timedelta(0) for tick in first)


def test_the_latest_tick_of_an_interval_is_not_after_now() -> None:
    every = Every(timedelta(minutes=10))
    assert every.latest(datetime(2026, 1, 1, 8, 19, 59, tzinfo=UTC)) == datetime(2026, 1, 1, 8, 10, tzinfo=UTC)
    assert every.latest(datetime(2026, 1, 1, 8, 20, tzinfo=UTC)) == datetime(2026, 1, 1, 8, 20, tzinfo=UTC)


def test_at_is_one_tick() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    at = At(moment)
    assert at.latest(moment - timedelta(seconds=1)) is None
    assert at.following(moment - timedelta(seconds=1)) == moment
    assert at.latest(moment + timedelta(days=900)) == moment
    assert at.following(moment) is None


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("0", ["01-04", "01-11"]),
        ("7", ["01-04", "01-11"]),
        ("sun", ["01-04", "01-11"]),
        ("1", ["01-05", "01-12"]),
        ("1-5", ["01-01", "01-02", "01-05", "01-06", "01-07", "01-08", "01-09", "01-12"]),
        ("5-7", ["01-02", "01-03", "01-04", "01-09"]),
        ("SAT,0", ["01-03", "01-04", "01-10", "01-11"]),
        ("*/2", ["01-01", "01-03", "01-04", "01-06"]),
        ("1/2", ["01-02", "01-05", "01-07", "01-09"]),
    ],
)
def test_weekdays_are_numbered_as_cron_numbers_them(weekday: str, days: list[str]) -> None:
    cron = Cron(f"0 12 * * {weekday}")  # the first of January 2026 is a Thursday
    found = ticks(cron, datetime(2026, 1, 1, tzinfo=UTC), len(days))
    assert found == [f"{day} 12:00" for day in days]


def test_a_restricted_day_and_a_restricted_weekday_are_alternatives() -> None:
    assert ticks(Cron("0 0 13 * 5"), datetime(2026, 1, 1, tzinfo=UTC), 4) == [
        "01-02 00:00",
        "01-09 00:00",
        "01-13 00:00",
        "01-16 00:00",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 2 * * *", ["03-31 01:00", "04-01 00:30"]),  # 02:30 does not exist on that day: the end of the gap
        ("0 3 * * *", ["03-31 01:00", "04-01 01:00"]),
        ("30 2,3 * * *", ["03-31 01:00", "03-31 01:30", "04-01 00:30"]),
        ("0 2,3 * * *", ["03-31 01:00", "04-01 00:00"]),  # both fall on one moment
        ("*/30 * * * *", ["03-30 23:00", "03-30 23:30", "03-31 00:00", "03-31 00:30", "03-31 01:00", "03-31 01:30"]),
    ],
)
def test_when_the_clocks_go_forward(line: str, expected: list[str]) -> None:
    assert ticks(Cron(line, BERLIN), datetime(2024, 3, 30, 22, 30, tzinfo=UTC), len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 2 * * *", ["10-27 00:30", "10-28 01:30"]),  # 02:30 comes twice on that day: the first one
        ("0 3 * * *", ["10-27 02:00", "10-28 02:00"]),
        ("0 * * * *", ["10-26 23:00", "10-27 00:00", "10-27 01:00", "10-27 02:00"]),  # an hour is an hour
    ],
)
def test_when_the_clocks_go_back(line: str, expected: list[str]) -> None:
    assert ticks(Cron(line, BERLIN), datetime(2024, 10, 26, 22, 30, tzinfo=UTC), len(expected)) == expected


@pytest.mark.parametrize("line", ["*/7 * * * *", "30 2 * * *", "* 2 * * *", "0 0 29 2 *", "15 */5 1-7 * 1"])
@pytest.mark.parametrize("zone", ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"])
def test_the_latest_tick_is_the_one_before_the_following_one(line: str, zone: str) -> None:
    cron, moment = Cron(line, zone), datetime(2024, 10, 26, 20, 17, tzinfo=UTC)
    for _ in range(25):
        latest, following = cron.latest(moment), cron.following(moment)
        assert latest is not None
        assert following is not None
        assert latest <= moment < following
        assert cron.following(latest) == following
        assert cron.latest(following) == following
        moment = min(following, moment + timedelta(hours=13))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 2 * *", "4 fields"),
        ("61 * * * *", "higher than the maximum"),
        ("0 0 30 2 *", "never fires"),
        ("* * * * 8", "weekday '8'"),
        ("* * * * fri-mon", "'fri-mon'"),
        ("* * * * mon/0", "'mon/0'"),
        ("x * * * *", "cannot be read"),
    ],
)
def test_a_crontab_line_that_cannot_be_read_is_refused_with_its_text(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Cron(line)
    assert repr(line) in str(caught.value)


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="Europe/Berlin"):
        Cron("0 2 * * *", "Mars/Olympus")
