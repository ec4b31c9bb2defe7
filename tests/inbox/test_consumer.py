"""Durable handlers of what comes by the broker, and of the own store, all in one process, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Command, Event, Metadata, Projection, RequestMediator, Settings, UnitOfWork, on
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.dead_letters.parking import Letter, newest
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

effects = Table(
    "effects", MetaData(), Column("n", Integer, primary_key=True), Column("handler", String), Column("what", String)
)


class Happened(Event, topic="things"):
    what: str


class Inside(Event):
    what: str


class Foreign(Event, name="other.thing", topic="elsewhere"):
    what: str


class Do(Command[None]):
    what: str
    times: int = 1


class FollowUp(Command[None]):
    what: str


class Overview(Projection, version=2):
    @on(Happened)
    async def happened(self, event: Happened, session: AsyncSession) -> None:
        await session.execute(insert(effects).values(handler="overview", what=event.what))


class Script:
    """What handlers should do next, and what they were given."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.seen: list[Metadata] = []
        self.raises: Callable[[], Exception] = lambda: RuntimeError("planned")


def build(url: str, script: Script) -> CQRS:
    settings = Settings(
        database_url=url,
        service="tests",
        retry_backoff="PT0.01S",
        handler_attempts=3,
        relay_poll="PT0.1S",
        max_message_bytes=200_000,
    )
    cqrs = CQRS(settings=settings)

    @cqrs.handles(Do)
    async def do(command: Do, unit: UnitOfWork) -> None:
        for number in range(command.times):
            what = command.what if command.times == 1 else f"{command.what}{number}"
            unit.publish(Happened(what=what))
            unit.publish(Inside(what=what))

    @cqrs.handles(FollowUp)
    async def follow_up(command: FollowUp, session: AsyncSession) -> None:
        await session.execute(insert(effects).values(handler="followup", what=command.what))

    @cqrs.on(Happened, name="writer")
    async def write(event: Happened, session: AsyncSession, metadata: Metadata) -> None:
        script.seen.append(metadata)
        await session.execute(insert(effects).values(handler="writer", what=event.what))
        if script.failures.get(event.what, 0) > 0:
            script.failures[event.what] -= 1
            raise script.raises()

    @cqrs.on(Inside, name="sender")
    async def send(event: Inside, mediator: RequestMediator) -> None:
        await mediator.send(FollowUp(what=event.what))

    @cqrs.on(Foreign, name="foreigner")
    async def foreign(event: Foreign, session: AsyncSession) -> None:
        await session.execute(insert(effects).values(handler="foreigner", what=event.what))

    cqrs.projections.include(Overview)
    return cqrs


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def cqrs(database_url: str, script: Script) -> AsyncIterator[CQRS]:
    cqrs = build(database_url, script)
    async with cqrs.database.engine.begin() as connection:
        if database_url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    async with cqrs.running(workers=("relay", "consumer")):
        yield cqrs


async def done(cqrs: CQRS, handler: str) -> list[str]:
    query = select(effects.c.what).where(effects.c.handler == handler).order_by(effects.c.n)
    return list(await cqrs.database.read(lambda c: c.execute(query).scalars().all()))


async def has_done(cqrs: CQRS, handler: str, times: int) -> bool:
    return len(await done(cqrs, handler)) >= times


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.02)


async def outbox_is_empty(cqrs: CQRS) -> bool:
    outbox = cqrs.database.tables.outbox
    return await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(outbox)).scalar_one()) == 0


async def letters(cqrs: CQRS) -> list[Letter]:
    return await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 100))


async def put(cqrs: CQRS, topic: str, payload: bytes, **headers: str) -> None:
    publisher = await cqrs.broker.publisher()
    message = OutgoingMessage(UUID(headers["message-id"]), topic, "k", payload, headers)
    await publisher.publish([message])
    await publisher.close()


def headers(message_id: UUID, **changed: str) -> dict[str, str]:
    return {"message-id": str(message_id), "type": "other.thing", "version": "1", **changed}


async def test_every_durable_handler_has_its_effect_once(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Do(what="x", times=30))
    await until(lambda: outbox_is_empty(cqrs))
    await until(lambda: has_done(cqrs, "followup", 30))

    wanted = sorted(f"x{number}" for number in range(30))
    assert sorted(await done(cqrs, "writer")) == wanted
    assert sorted(await done(cqrs, "overview")) == wanted
    assert sorted(await done(cqrs, "followup")) == wanted


async def test_a_handler_that_fails_is_tried_again_and_its_rows_are_rolled_back(cqrs: CQRS, script: Script) -> None:
    script.failures["x"] = 2
    await cqrs.mediator.send(Do(what="x"))
    await until(lambda: outbox_is_empty(cqrs))

    assert await done(cqrs, "writer") == ["x"]
    assert len(script.seen) == 3
    assert await letters(cqrs) == []


async def is_parked(cqrs: CQRS) -> bool:
    return bool(await letters(cqrs))


async def test_a_handler_that_always_fails_is_parked_and_the_others_go_on(cqrs: CQRS, script: Script) -> None:
    script.failures["x"] = 1000
    await cqrs.mediator.send(Do(what="x"))
    await cqrs.mediator.send(Do(what="y"))
    await until(lambda: is_parked(cqrs))
    await until(lambda: outbox_is_empty(cqrs))

    assert await done(cqrs, "writer") == ["y"]
    assert sorted(await done(cqrs, "overview")) == ["x", "y"]
    [letter] = await letters(cqrs)
    assert (letter.consumer, letter.code, letter.error, letter.attempts) == ("writer", "RuntimeError", "planned", 3)
    assert (letter.topic, letter.payload) == ("things", b'{"what":"x"}')
    assert "RuntimeError: planned" in letter.traceback
    assert [one.message_id for one in script.seen].count(letter.message_id) >= 3


async def test_a_database_that_is_away_is_waited_for_without_counting(cqrs: CQRS, script: Script) -> None:
    script.raises = lambda: UnavailableError("planned")
    script.failures["x"] = 10
    await cqrs.mediator.send(Do(what="x"))
    await until(lambda: outbox_is_empty(cqrs), 60)

    assert await done(cqrs, "writer") == ["x"]
    assert await letters(cqrs) == []


async def test_a_message_received_twice_has_one_effect(cqrs: CQRS) -> None:
    message_id = uuid4()
    for _ in range(3):
        await put(cqrs, "elsewhere", b'{"what":"once"}', **headers(message_id))

    assert await done(cqrs, "foreigner") == ["once"]


@pytest.mark.parametrize(
    ("changed", "payload", "code"),
    [
        ({"type": "nobody.knows"}, b"{}", "unknown_message"),
        ({"version": "9"}, b'{"what":"x"}', "unknown_message"),
        ({"version": "nine"}, b'{"what":"x"}', "malformed_message"),
        ({"type": None}, b'{"what":"x"}', "malformed_message"),
        ({}, b"", "malformed_message"),
        ({}, b"not json", "malformed_message"),
        ({}, b'{"what":1}', "malformed_message"),
        ({}, b'{"what":"\xff"}', "malformed_message"),
        ({}, b"[" * 100_000, "malformed_message"),
        ({}, b'{"what":"' + b"x" * 200_000 + b'"}', "message_too_large"),
        ({"time": "yesterday"}, b'{"what":"x"}', "malformed_message"),
        ({"type": "__import__"}, b'{"what":"x"}', "unknown_message"),
    ],
    ids=[
        "unknown type",
        "unknown version",
        "version is no number",
        "no type",
        "empty",
        "no json",
        "wrong type of a field",
        "no text",
        "nested too deep",
        "too large",
        "no time",
        "name of a builtin",
    ],
)
async def test_what_cannot_be_understood_is_kept_with_its_raw_bytes_and_the_reason(
    cqrs: CQRS, changed: dict[str, str | None], payload: bytes, code: str
) -> None:
    given = {name: value for name, value in {**headers(uuid4()), **changed}.items() if value is not None}
    await put(cqrs, "elsewhere", payload, **given)
    await put(cqrs, "elsewhere", b'{"what":"after"}', **headers(uuid4()))

    assert await done(cqrs, "foreigner") == ["after"]
    [letter] = await letters(cqrs)
    assert (letter.consumer, letter.code, letter.topic, letter.payload) == ("tests", code, "elsewhere", payload)
    assert letter.headers == given


async def test_the_metadata_of_the_event_is_current_in_its_handler(cqrs: CQRS, script: Script) -> None:
    await cqrs.mediator.send(Do(what="x"))
    await until(lambda: outbox_is_empty(cqrs))

    [metadata] = script.seen
    assert metadata.causation_id is not None
    assert metadata.correlation_id != str(metadata.message_id)


async def test_an_event_that_somebody_else_received_goes_through_the_same_inbox(cqrs: CQRS) -> None:
    message_id = uuid4()
    metadata = Metadata(message_id=message_id, correlation_id="c", time=datetime.now(UTC))
    for _ in range(2):
        await cqrs.event_mediator.handle(Foreign(what="direct"), message_id=message_id, metadata=metadata)
    await put(cqrs, "elsewhere", b'{"what":"direct"}', **headers(message_id))

    assert await done(cqrs, "foreigner") == ["direct"]


async def test_publish_outside_of_a_handler_returns_after_a_commit(cqrs: CQRS) -> None:
    await cqrs.event_mediator.publish(Happened(what="p"))
    await until(lambda: outbox_is_empty(cqrs))

    assert await done(cqrs, "writer") == ["p"]


async def test_handling_again_by_hand_runs_only_who_has_not_settled_it(cqrs: CQRS, script: Script) -> None:
    message_id = uuid4()
    other = Metadata(message_id=uuid4(), correlation_id="c", time=datetime.now(UTC))
    for _ in range(3):
        await cqrs.event_mediator.handle(Happened(what="x"), message_id=message_id, metadata=other)

    assert [metadata.message_id for metadata in script.seen] == [message_id]
    assert await done(cqrs, "writer") == ["x"]
