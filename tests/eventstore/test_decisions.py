"""Decisions on events of any stream: what they rest on has not changed when they are written. On both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from cqrs_fastapi import ANY, CQRS, Command, DomainError, Event, EventStore, Settings, matching
from cqrs_fastapi.errors import ConcurrencyError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.decisions import read_matching
from cqrs_fastapi.eventstore.records import AppendUnit, Condition, Matching, NewEvent, StreamAppend
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Enrolled(Event, tags=("course", "student")):
    course: str
    student: str


class Opened(Event):
    name: str


class Enrol(Command[int]):
    course: str
    student: str


class CourseFullError(DomainError):
    code = "course_full"


class StudentBusyError(DomainError):
    code = "student_busy"


SEATS = 5
COURSES = 2


async def enrol(command: Enrol, store: EventStore) -> int:
    """A course has so many seats and a student so many courses: no stream alone knows both."""
    found = await store.decide(matching(Enrolled, course=command.course), matching(Enrolled, student=command.student))
    enrolled = [one.event for one in found.events]
    if sum(one.course == command.course for one in enrolled) >= SEATS:
        raise CourseFullError("full")
    if sum(one.student == command.student for one in enrolled) >= COURSES:
        raise StudentBusyError("busy")
    event = Enrolled(course=command.course, student=command.student)
    await store.append(f"enrolment-{uuid4()}", [event], condition=found.condition)
    return len(enrolled)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(Settings(database_url=database_url))
    await database.open()
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    yield database
    await database.close()


@pytest.fixture
async def cqrs(database: Database, database_url: str) -> AsyncIterator[CQRS]:
    cqrs = CQRS(settings=Settings(database_url=database_url, conflict_retries=100))
    cqrs.register(Enrolled, Opened)
    cqrs.handles(Enrol)(enrol)
    async with cqrs.running(workers=()):
        yield cqrs


async def everything(database: Database) -> list[tuple[str, str]]:
    rows = await database.read(lambda c: c.execute(database.tables.events.select().order_by("position")).all())
    events = [Enrolled.model_validate_json(row.data) for row in rows]
    return [(one.course, one.student) for one in events]


async def test_no_limit_is_broken_by_decisions_at_the_same_time(cqrs: CQRS, database: Database) -> None:
    commands = [Enrol(course=f"c{number % 4}", student=f"s{number // 3}") for number in range(36)]
    answers = await asyncio.gather(*(cqrs.mediator.send(one) for one in commands), return_exceptions=True)

    enrolled = await everything(database)
    assert len(enrolled) == sum(isinstance(answer, int) for answer in answers)
    assert {type(answer) for answer in answers} <= {int, CourseFullError, StudentBusyError}
    courses = [course for course, _ in enrolled]
    students = [student for _, student in enrolled]
    assert max(courses.count(course) for course in courses) == SEATS
    assert max(students.count(student) for student in students) <= COURSES
    assert all(courses.count(f"c{number}") == SEATS for number in range(4))


def unit(stream: str, *tags: str, kind: str = "Enrolled", condition: Condition | None = None) -> AppendUnit:
    event = NewEvent(uuid4(), kind, 1, "{}", "{}", None, tags, bool(tags))
    return AppendUnit("", NOW, [StreamAppend(stream, "cat", ANY, (event,))], condition=condition)


async def decided(database: Database, *wanted: Matching) -> Condition:
    return (await database.read(lambda c: read_matching(c, database.tables, "", wanted)))[1]


async def put(database: Database, one: AppendUnit) -> None:
    await database.write(lambda c: append(c, database.tables, one))


@pytest.mark.parametrize(
    ("wanted", "later", "broken"),
    [
        (Matching(("Enrolled",), ("course:1",)), unit("a", "course:1"), True),
        (Matching(("Enrolled",), ("course:1",)), unit("a", "course:1", "student:2"), True),
        (Matching(("Enrolled",), ("course:1", "student:2")), unit("a", "course:1", "student:2"), True),
        (Matching(("Enrolled",), ("course:1", "student:2")), unit("a", "course:1", "student:3"), False),
        (Matching(("Enrolled",), ("course:1",)), unit("a", "course:2"), False),
        (Matching(("Left",), ("course:1",)), unit("a", "course:1"), False),
        (Matching((), ("course:1",)), unit("a", "course:1", kind="Left"), True),
        (Matching(("Enrolled",), ()), unit("a", "course:1"), True),
        (Matching(("Enrolled",), ()), unit("a", "course:1", kind="Left"), False),
    ],
)
async def test_a_condition_is_broken_by_what_matches_and_by_nothing_else(
    database: Database, wanted: Matching, later: AppendUnit, *, broken: bool
) -> None:
    await put(database, unit("before", "course:1", "student:2"))
    condition = await decided(database, wanted)
    await put(database, later)
    mine = unit("mine", "course:1", condition=condition)
    if broken:
        with pytest.raises(ConcurrencyError):
            await put(database, mine)
    else:
        await put(database, mine)


async def test_a_condition_of_one_tenant_is_not_broken_by_another(database: Database) -> None:
    condition = await decided(database, Matching((), ("course:1",)))
    event = NewEvent(uuid4(), "Enrolled", 1, "{}", "{}", None, ("course:1",), is_tagged=True)
    await put(database, AppendUnit("red", NOW, [StreamAppend("a", "cat", ANY, (event,))]))
    await put(database, unit("mine", "course:1", condition=condition))


async def test_a_lower_position_that_is_committed_later_breaks_the_condition(postgres_url: str) -> None:
    """The decision has read up to a position above one that was not yet committed."""
    database = Database(Settings(database_url=postgres_url))
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade)
    await put(database, unit("before", "course:1"))
    async with database.engine.connect() as other:
        await other.run_sync(lambda c: append(c, database.tables, unit("slow", "course:1")))
        await put(database, unit("fast", "course:2"))
        wanted = (Matching((), ("course:1",)), Matching((), ("course:2",)))
        condition = await decided(database, *wanted)
        assert (condition.after, condition.seen) == (1, (3,))
        mine = asyncio.create_task(put(database, unit("mine", "course:1", condition=condition)))
        await asyncio.sleep(0.2)
        assert not mine.done()  # it waits for the row of the tag
        await other.commit()
        with pytest.raises(ConcurrencyError):
            await mine
    await database.close()


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(TypeError, match="carries no tags"):
        matching(Opened)
    with pytest.raises(TypeError, match="no tag teacher"):
        matching(Enrolled, teacher="x")
    with pytest.raises(TypeError, match="names types, tags or both"):
        matching()
    with pytest.raises(ValueError, match="is no tag"):
        matching(Enrolled, course="a b")
