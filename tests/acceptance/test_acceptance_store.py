"""What is promised of the event store, part by part, of one program that uses it as its users do: embedded, and on
PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    ANY,
    CQRS,
    NO_STREAM,
    STREAM_EXISTS,
    Command,
    ConcurrencyError,
    DomainError,
    Event,
    EventStore,
    MediatorDep,
    Metadata,
    Projection,
    Request,
    Settings,
    matching,
    on,
    query,
)
from cqrs_fastapi.errors import (
    AheadOfStoreError,
    IdempotencyKeyReusedError,
    MessageTooLargeError,
    StreamClosedError,
    StreamDeletedError,
    StreamTruncatedError,
)
from cqrs_fastapi.eventstore.records import RecordedEvent
from cqrs_fastapi.messages.metadata import Origin, enter, leave
from cqrs_fastapi.migrations import upgrade
from tests.acceptance.programs import BIN, Stage

pytestmark = pytest.mark.anyio


class Noted(Event, topic="school.noted"):
    what: str


class Enrolled(Event, tags=("course",)):
    course: str


class Summed(Event):
    what: str


class Append(Command[None]):
    """Notes for streams, each expected at a version, or in one of the EXPECTED states."""

    appends: list[tuple[str, list[str], int | str]]


EXPECTED = {"any": ANY, "none": NO_STREAM, "some": STREAM_EXISTS}


class Enrol(Command[None]):
    course: str


class AppendNext(Command[int]):
    """Reads the stream, and appends one note that says how many there were."""

    stream: str


@query
@dataclass(frozen=True)
class Read(Request[list[RecordedEvent]]):
    what: Callable[[EventStore], AsyncIterator[RecordedEvent]]


class FullError(DomainError):
    code = "full"


class Notes(Projection):
    """Keeps what it is given, in the order in which it comes."""

    @on(Noted)
    async def noted(self, event: Noted, session: AsyncSession) -> None:
        await session.execute(insert(notes).values(what=event.what))


notes = Table("notes", MetaData(), Column("n", Integer, primary_key=True), Column("what", String))


class School:
    """The program: a command for each thing that a handler does with the store."""

    def __init__(self, url: str) -> None:
        settings = Settings(
            database_url=url,
            max_units_of_work=2_000,
            command_timeout=timedelta(seconds=150),
            pool_timeout=timedelta(seconds=150),
            conflict_retries=10,
            subscription_poll=timedelta(seconds=0.05),
        )
        self.cqrs = CQRS(settings=settings)
        self.cqrs.register(Noted, Enrolled, Summed)
        self.cqrs.projections.include(Notes)
        self.cqrs.handles(Append)(self._append)
        self.cqrs.handles(AppendNext)(self._append_next)
        self.cqrs.handles(Enrol)(self._enrol)
        self.cqrs.handles(Read)(self._read)
        self.handled = 0

    async def append(self, stream: str, *what: str, expected: int | str = "any", key: str | None = None) -> None:
        await self.append_all((stream, list(what), expected), key=key)

    async def append_all(self, *appends: tuple[str, list[str], int | str], key: str | None = None) -> None:
        await self.cqrs.mediator.send(Append(appends=list(appends)), idempotency_key=key)

    async def read(self, what: Callable[[EventStore], AsyncIterator[RecordedEvent]]) -> list[RecordedEvent]:
        return await self.cqrs.mediator.send(Read(what))

    async def notes(self, stream: str) -> list[str]:
        return [one.event.what for one in await self.read(lambda store: store.read(stream))]

    async def rows(self, statement: str) -> list[Any]:
        return await self.cqrs.database.read(lambda c: list(c.execute(text(statement))))

    async def _append(self, command: Append, store: EventStore) -> None:
        self.handled += 1
        for stream, what, expected in command.appends:
            version = expected if isinstance(expected, int) else EXPECTED[expected]
            await store.append(stream, [Noted(what=one) for one in what], version)

    async def _append_next(self, command: AppendNext, store: EventStore) -> int:
        before = len([one async for one in store.read(command.stream)])
        await store.append(command.stream, [Noted(what=str(before))], before)
        return before + 1

    async def _enrol(self, command: Enrol, store: EventStore) -> None:
        found = await store.decide(matching(Enrolled, course=command.course))
        if len(found.events) >= 5:
            raise FullError(f"{command.course} is full")
        event = Enrolled(course=command.course)
        await store.append(f"enrolment-{uuid4()}", [event], condition=found.condition)

    async def _read(self, wanted: Read, store: EventStore) -> list[RecordedEvent]:
        return [one async for one in wanted.what(store)]


@pytest.fixture
async def school(database_url: str) -> AsyncIterator[School]:
    school = School(database_url)
    database = school.cqrs.database
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.run_sync(notes.metadata.create_all)
    async with school.cqrs.running(workers=("consumer",)):
        yield school


@contextmanager
def tenant(name: str) -> Iterator[None]:
    """What the block sends is sent on behalf of this tenant."""
    token = enter(Origin(Metadata(uuid4(), "c", datetime.now(UTC), tenant=name)))
    try:
        yield
    finally:
        leave(token)


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_append_checks_versions_and_writes_all_or_nothing(school: School) -> None:
    await school.append("a-1", "first", expected="none")
    await school.append("a-1", "second", expected="some")
    await school.append("a-1", "third", expected=2)
    await school.append_all(("a-1", ["fourth"], 3), ("b-1", ["with it"], "none"))

    for stream, expected, told, actual in [
        ("a-1", "none", "no stream", 4),
        ("a-1", 3, "version 3", 4),
        ("new-1", "some", "an existing stream", 0),
    ]:
        with pytest.raises(ConcurrencyError) as refused:
            await school.append_all(("c-1", ["not alone"], "none"), (stream, ["too late"], expected))
        assert (refused.value.stream, refused.value.expected, refused.value.actual) == (stream, told, actual)
    with pytest.raises(MessageTooLargeError):
        await school.append_all(("c-1", ["small"], "any"), ("d-1", ["x" * 2_000_000], "any"))

    assert await school.notes("a-1") == ["first", "second", "third", "fourth"]
    assert await school.notes("c-1") == await school.notes("d-1") == []
    stored = await school.rows("SELECT message_id FROM cqrs_events ORDER BY position")
    to_send = await school.rows("SELECT id FROM cqrs_outbox ORDER BY position")
    assert len(stored) == 5
    assert [row[0] for row in stored] == [row[0] for row in to_send]


async def test_idempotency_record_has_a_command_carried_out_once(school: School) -> None:
    sent = await asyncio.gather(*(school.append("a-1", "paid", key="order-1") for _ in range(20)))
    assert sent == [None] * 20
    assert await school.notes("a-1") == ["paid"]

    with pytest.raises(IdempotencyKeyReusedError):
        await school.append("a-1", "paid twice", key="order-1")
    with tenant("other"):
        await school.append("a-1", "paid twice", key="order-1")  # a key belongs to its tenant
        assert await school.notes("a-1") == ["paid twice"]
    assert await school.notes("a-1") == ["paid"]


async def test_group_commit_gives_each_append_its_own_outcome(school: School) -> None:
    await school.append("taken-1", "first")
    good = [school.append(f"good-{number}", "yes", expected="none") for number in range(60)]
    late = [school.append("taken-1", "no", expected="none") for _ in range(5)]
    unfit = [school.append(f"unfit-{number}", "a lone \ud800 surrogate") for number in range(5)]
    leaving = asyncio.ensure_future(school.append("left-1", "gone"))
    together = asyncio.gather(*good, *late, *unfit, return_exceptions=True)
    await asyncio.sleep(0)
    leaving.cancel()
    outcomes = await together

    assert outcomes[:60] == [None] * 60
    assert all(isinstance(one, ConcurrencyError) for one in outcomes[60:65])
    assert all(isinstance(one, Exception) for one in outcomes[65:])
    assert [await school.notes(f"good-{number}") for number in range(60)] == [["yes"]] * 60
    assert await school.notes("taken-1") == ["first"]
    assert [await school.notes(f"unfit-{number}") for number in range(5)] == [[]] * 5
    assert await school.notes("left-1") in ([], ["gone"])


async def test_reading_goes_both_ways_and_by_position(school: School) -> None:
    for number in range(12):
        await school.append(f"{'ab'[number % 2]}-1", str(number))

    assert await school.notes("a-1") == ["0", "2", "4", "6", "8", "10"]
    last = await school.read(lambda store: store.read("a-1", backwards=True, limit=2))
    assert [one.version for one in last] == [6, 5]
    middle = await school.read(lambda store: store.read("a-1", after=2, until=4))
    assert [one.version for one in middle] == [3, 4]
    at = middle[0].recorded_at
    assert [one.version for one in await school.read(lambda store: store.read("a-1", since=at))] == [3, 4, 5, 6]
    assert [one.version for one in await school.read(lambda store: store.read("a-1", before=at))] == [1, 2]
    everything = await school.read(lambda store: store.read_all())
    assert [one.event.what for one in everything] == [str(number) for number in range(12)]
    category = await school.read(lambda store: store.read_all(types=[Noted], categories=["b"], limit=3))
    assert [one.event.what for one in category] == ["1", "3", "5"]
    assert await school.read(lambda store: store.read_all(types=[Enrolled])) == []
    with tenant("other"):
        assert await school.read(lambda store: store.read_all()) == []


async def test_gap_safe_subscription_gives_durable_handlers_everything_once_and_in_order(school: School) -> None:
    async def write(stream: str) -> None:
        for number in range(20):
            await school.append(stream, f"{stream} {number}")

    await asyncio.gather(*(write(f"s-{number}") for number in range(16)))
    await until(lambda: _kept(school, 320))
    kept = [row[0] for row in await school.rows("SELECT what FROM notes ORDER BY n")]
    for number in range(16):
        own = [one for one in kept if one.startswith(f"s-{number} ")]
        assert own == [f"s-{number} {turn}" for turn in range(20)]
    assert kept == [one.event.what for one in await school.read(lambda store: store.read_all())]


async def _kept(school: School, number: int) -> bool:
    return (await school.rows("SELECT count(*) FROM notes"))[0][0] == number


def test_gap_safe_subscription_stands_the_torture_that_anyone_can_run(database_url: str, tmp_path: Path) -> None:
    options = ("--seconds", "5", "--writers", "16", "--seed", "3")
    printed = Stage(tmp_path).run(str(BIN / "cqrs"), "torture-store", "--database-url", database_url, *options)
    rows = dict(line.split(maxsplit=1) for line in printed.splitlines() if " " in line)
    assert int(rows["committed"].split()[0].replace(",", "")) == int(rows["delivered"].replace(",", "")) > 100
    assert rows["lost"] == rows["inverted"] == "0"
    assert printed.splitlines()[-1] == "OK"


async def test_contention_lets_every_command_on_one_stream_finish(school: School) -> None:
    answers = await asyncio.gather(*(school.cqrs.mediator.send(AppendNext(stream="hot-1")) for _ in range(300)))
    assert sorted(answers) == list(range(1, 301))
    assert await school.notes("hot-1") == [str(number) for number in range(300)]


async def test_contention_that_is_given_up_answers_409_with_retry_after(school: School) -> None:
    app = FastAPI()
    school.cqrs.install(app)

    @app.post("/notes")
    async def post(command: Append, mediator: MediatorDep) -> None:
        await mediator.send(command)

    async with AsyncClient(transport=ASGITransport(app), base_url="http://school") as client:
        body = {"appends": [["a-1", ["one"], 7]]}  # never at that version, however often it is decided
        answer = await client.post("/notes", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "concurrency")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_archive_and_delete_take_streams_away_from_whom_they_should(school: School) -> None:
    streams = school.cqrs.streams
    for name in ("old-1", "long-1", "gone-1"):
        await school.append(name, "1", "2", "3")
    await until(lambda: _kept(school, 9))  # no reader may be behind what goes

    await streams.archive("old-1")
    await streams.truncate("long-1", Summed(what="6"), expected_version=3)
    await streams.delete("gone-1")

    assert await school.notes("old-1") == ["1", "2", "3"]
    assert [one.stream for one in await school.read(lambda store: store.read_all())] == ["long-1"]
    archived = await school.read(lambda store: store.read_all(archived=True))
    assert [one.stream for one in archived] == ["old-1"] * 3 + ["long-1"]
    assert [(one.version, one.event) for one in await school.read(lambda store: store.read("long-1"))] == [
        (4, Summed(what="6"))
    ]
    with pytest.raises(StreamTruncatedError):
        await school.read(lambda store: store.read("long-1", after=1))
    with pytest.raises(StreamDeletedError):
        await school.notes("gone-1")
    for name in ("old-1", "gone-1"):
        with pytest.raises(StreamClosedError):
            await school.append(name, "more")


async def test_dynamic_consistency_boundary_holds_a_limit_over_many_streams(school: School) -> None:
    commands = [Enrol(course=f"course-{number % 3}") for number in range(30)]
    answers = await asyncio.gather(*map(school.cqrs.mediator.send, commands), return_exceptions=True)
    assert answers.count(None) == 15
    assert sum(isinstance(answer, FullError) for answer in answers) == 15
    taken = Counter(one.event.course for one in await school.read(lambda store: store.read_all(types=[Enrolled])))
    assert taken == {"course-0": 5, "course-1": 5, "course-2": 5}


async def test_tenancy_keeps_everything_of_one_from_the_other(school: School) -> None:
    for name in ("one", "two"):
        with tenant(name):
            await school.append("a-1", name, expected="none")
            await asyncio.gather(*(school.cqrs.mediator.send(Enrol(course="c")) for _ in range(5)))
    for name in ("one", "two"):
        with tenant(name):
            assert await school.notes("a-1") == [name]
            assert len(await school.read(lambda store: store.read_all())) == 6
            with pytest.raises(FullError):
                await school.cqrs.mediator.send(Enrol(course="c"))
    await until(lambda: _kept(school, 2))
    with tenant("one"):
        await school.cqrs.streams.delete("a-1")
    with tenant("two"):
        assert await school.notes("a-1") == ["two"]
    assert await school.notes("a-1") == []


@pytest.mark.parametrize("stream", ["", " ", "a b", "ä-1", "a\n", "x" * 201, "a-1;DROP TABLE cqrs_events"])
async def test_bad_input_odd_stream_names_are_refused(school: School, stream: str) -> None:
    with pytest.raises(ValueError, match="stream"):
        await school.append(stream, "no")
    with pytest.raises(ValueError, match="stream"):
        await school.notes(stream)


async def test_bad_input_numbers_out_of_range_are_refused(school: School) -> None:
    await school.append("a-1", "one")
    for number in (-1, 2**63):
        for read in (
            lambda store, n=number: store.read("a-1", after=n),
            lambda store, n=number: store.read_all(after=n),
        ):
            with pytest.raises(ValueError, match="after"):
                await school.read(read)
        with pytest.raises(ValueError, match="expected version"):
            await school.append("a-1", "no", expected=number)
    for read in (lambda store: store.read("a-1", after=9), lambda store: store.read_all(after=10**9)):
        with pytest.raises(AheadOfStoreError):
            await school.read(read)
    assert await school.notes("a-1") == ["one"]
