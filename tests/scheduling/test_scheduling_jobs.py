"""Which jobs there are: maps, decorators, and arguments that cannot be meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cqrs_fastapi.mediation.behaviors import Next
from cqrs_fastapi.scheduling.job import JobMap
from cqrs_fastapi.scheduling.tick import Tick

HOUR = timedelta(hours=1)


async def tidy(tick: Tick) -> None: ...


async def outer(message: object, call_next: Next, /) -> object:
    return await call_next(message)


async def inner(message: object, call_next: Next, /) -> object:
    return await call_next(message)


def test_a_decorated_function_stays_as_it_was_and_is_named_after_itself() -> None:
    jobs = JobMap()
    assert jobs.job(every=HOUR)(tidy) is tidy
    assert [(job.name, job.handler) for job in jobs.jobs()] == [("tidy", tidy)]


def test_included_maps_bring_their_jobs_inside_the_behaviors_of_the_outer_map() -> None:
    whole, part = JobMap(behaviors=[outer]), JobMap(behaviors=[inner])
    whole.include(part)
    part.bind(tidy, cron="0 2 * * *", timezone="Europe/Berlin", name="tidy-up")
    assert [(job.name, job.behaviors) for job in whole.jobs()] == [("tidy-up", (outer, inner))]


def test_two_jobs_of_one_name_are_a_problem_that_names_them() -> None:
    jobs = JobMap()
    jobs.bind(tidy, every=HOUR)
    jobs.bind(tidy, cron="0 2 * * *")
    assert len(jobs.problems()) == 1
    assert "2 jobs are called 'tidy'" in jobs.problems()[0]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TypeError, "none of them"),
        ({"cron": "0 2 * * *", "every": HOUR}, TypeError, "cron and every"),
        ({"every": HOUR, "timezone": "Europe/Berlin"}, TypeError, "belongs to cron="),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC), "immediately": True}, TypeError, "immediately"),
        ({"at": datetime(2026, 1, 1)}, ValueError, "no time zone"),  # noqa: DTZ001  # that is the case
        ({"every": timedelta(0)}, ValueError, "100 ms"),
        ({"every": -HOUR}, ValueError, "100 ms"),
        ({"every": 60}, TypeError, "no timedelta"),
        ({"cron": 5}, TypeError, "no text"),
        ({"at": "tomorrow"}, TypeError, "no datetime"),
        ({"cron": "0 2 * *"}, ValueError, "five fields"),
        ({"cron": "0 2 * * *", "timezone": "Mars"}, ValueError, "Mars"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_where_they_stand(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        JobMap().job(**arguments)


def test_a_job_without_a_name_or_a_function_is_refused() -> None:
    with pytest.raises(ValueError, match="name=''"):
        JobMap().bind(tidy, every=HOUR, name="")
    with pytest.raises(TypeError, match="async function"):
        JobMap().bind(3, every=HOUR)  # type: ignore[arg-type]  # that is the case
