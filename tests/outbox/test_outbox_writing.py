"""What is added to the outbox shares the fate of its transaction: a unit of work's, or one of the application's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from outbox_support import Add, Noted, Place, Placed, Silent, make, payloads, rows, running
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from cqrs_fastapi import CQRS, Command, CqrsError, Outbox, Query
from cqrs_fastapi.errors import (
    ConfigurationError,
    MalformedMessageError,
    MessageTooLargeError,
    NotRunningError,
    ReadOnlyError,
    UnknownMessageError,
)
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cqrs(database_url: str) -> AsyncIterator[CQRS]:
    async with running(make(database_url)) as cqrs:
        yield cqrs


@pytest.fixture
async def session(cqrs: CQRS) -> AsyncIterator[AsyncSession]:
    """A session of the application's own, with an engine and a table of its own."""
    engine = create_async_engine(cqrs.settings.database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE mine (n INTEGER)"))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


async def write(session: AsyncSession, number: int) -> None:
    await session.execute(text("INSERT INTO mine VALUES (:n)"), {"n": number})


async def test_a_message_of_plain_session_code_is_committed_with_it(cqrs: CQRS, session: AsyncSession) -> None:
    await write(session, 1)
    message_id = await cqrs.outbox(session).add_raw("raw", b"\x00\xff", key="k", headers={"kind": "x"})
    assert await payloads(cqrs) == []
    await session.commit()

    [row] = await rows(cqrs)
    assert (row.id, row.topic, row.key, row.payload, row.type) == (message_id, "raw", "k", b"\x00\xff", "")
    headers = json.loads(row.headers)
    assert (headers["kind"], headers["content-type"]) == ("x", "application/octet-stream")
    assert headers["correlation-id"] == str(message_id)


async def test_a_rollback_leaves_nothing_and_the_session_can_go_on(cqrs: CQRS, session: AsyncSession) -> None:
    outbox = cqrs.outbox(session)
    await write(session, 1)
    await outbox.add_raw("raw", b"lost")
    await session.rollback()
    await outbox.add_raw("raw", b"kept")
    await session.commit()
    await session.commit()

    assert await payloads(cqrs) == [b"kept"]


async def test_a_session_that_is_closed_takes_its_messages_along(cqrs: CQRS, session: AsyncSession) -> None:
    await cqrs.outbox(session).add_raw("raw", b"lost")
    await session.close()
    await write(session, 1)
    await session.commit()

    assert await payloads(cqrs) == []


async def test_a_rollback_to_a_savepoint_drops_what_was_added_since(cqrs: CQRS, session: AsyncSession) -> None:
    outbox = cqrs.outbox(session)
    await outbox.add_raw("raw", b"1")
    with pytest.raises(LookupError):
        async with session.begin_nested():
            await outbox.add_raw("raw", b"lost")
            async with session.begin_nested():
                await outbox.add_raw("raw", b"lost too, though its own savepoint was released")
            raise LookupError
    async with session.begin_nested():
        await outbox.add_raw("raw", b"2")
        with pytest.raises(LookupError):
            async with session.begin_nested():
                await outbox.add_raw("raw", b"lost as well")
                raise LookupError
    await outbox.add_raw("raw", b"3")
    await session.commit()

    assert await payloads(cqrs) == [b"1", b"2", b"3"]


async def test_a_released_savepoint_writes_nothing_before_the_commit(cqrs: CQRS, session: AsyncSession) -> None:
    async with session.begin_nested():
        await cqrs.outbox(session).add_raw("raw", b"lost")
    await session.rollback()
    assert await payloads(cqrs) == []


async def test_a_flush_that_fails_at_the_commit_leaves_no_message(cqrs: CQRS, session: AsyncSession) -> None:
    await session.execute(text("CREATE UNIQUE INDEX mine_n ON mine (n)"))
    await session.commit()
    await write(session, 1)
    await session.commit()
    await cqrs.outbox(session).add_raw("raw", b"lost")
    with pytest.raises(Exception, match=r"(?i)unique"):
        await write(session, 1)
    await session.rollback()
    assert await payloads(cqrs) == []


async def test_a_cancelled_transaction_leaves_no_message(cqrs: CQRS, session: AsyncSession) -> None:
    added = asyncio.Event()

    async def work() -> None:
        async with session.begin():
            await write(session, 1)
            await cqrs.outbox(session).add_raw("raw", b"lost")
            added.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await added.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await payloads(cqrs) == []


async def test_a_session_has_one_outbox_however_often_it_is_asked_for(cqrs: CQRS, session: AsyncSession) -> None:
    assert cqrs.outbox(session) is cqrs.outbox(session)
    await cqrs.outbox(session).add_raw("raw", b"1")
    await cqrs.outbox(session).add_raw("raw", b"2")
    await session.commit()
    assert await payloads(cqrs) == [b"1", b"2"]


async def test_an_event_goes_to_the_topic_and_key_of_its_class_or_to_those_given(
    cqrs: CQRS, session: AsyncSession
) -> None:
    outbox = cqrs.outbox(session)
    await outbox.add(Placed(customer="c-1"))
    await outbox.add(Placed(customer="c-1"), topic="elsewhere", key="other")
    await outbox.add(Noted(text="n"))
    await outbox.add(Silent(text="s"), topic="loud")
    await session.commit()

    found = [(row.topic, row.key, row.type) for row in await rows(cqrs)]
    assert found == [
        ("orders", "c-1", "order.placed"),
        ("elsewhere", "other", "order.placed"),
        ("notes", None, "Noted"),
        ("loud", None, "Silent"),
    ]


async def test_an_event_that_goes_nowhere_is_refused_with_what_to_write(cqrs: CQRS, session: AsyncSession) -> None:
    class Stranger(Noted, topic="notes"):
        pass

    with pytest.raises(MalformedMessageError, match=r"outbox\.add\(event, topic='\.\.\.'\)"):
        await cqrs.outbox(session).add(Silent(text="s"))
    with pytest.raises(UnknownMessageError):
        await cqrs.outbox(session).add(Stranger(text="s"))


@pytest.mark.parametrize(
    ("topic", "key", "headers"),
    [
        ("no topic!", None, {}),
        ("", None, {}),
        ("raw", "", {}),
        ("raw", "a\0b", {}),
        ("raw", "k" * 513, {}),
        ("raw", "\ud800", {}),
        ("raw", None, {"message-id": "mine"}),
        ("raw", None, {"tenant": "another"}),
        ("raw", None, {"a": "\ud800"}),
        ("raw", None, {"a": "\0"}),
        ("raw", None, {"a": 1}),
    ],
)
async def test_what_no_broker_could_take_is_refused_when_it_is_added(
    cqrs: CQRS, session: AsyncSession, topic: str, key: str | None, headers: dict[str, str]
) -> None:
    with pytest.raises(MalformedMessageError):
        await cqrs.outbox(session).add_raw(topic, b"", key=key, headers=headers)
    await session.commit()
    assert await payloads(cqrs) == []


async def test_a_message_over_the_limit_is_refused_when_it_is_added(cqrs: CQRS, session: AsyncSession) -> None:
    limit = cqrs.settings.max_event_bytes
    with pytest.raises(MessageTooLargeError):
        await cqrs.outbox(session).add_raw("raw", bytes(limit))
    with pytest.raises(MessageTooLargeError):
        await cqrs.outbox(session).add_raw("raw", b"", headers={"a": "x" * limit})


async def test_an_outbox_needs_an_open_application(database_url: str) -> None:
    async with AsyncSession() as session:
        with pytest.raises(NotRunningError):
            make(database_url).outbox(session)


async def test_a_session_with_another_driver_is_told_which_one_it_needs(cqrs: CQRS) -> None:
    if cqrs.database.dialect == "sqlite":
        engine = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    else:
        engine = create_async_engine(cqrs.settings.database_url.replace("+asyncpg", "+psycopg"))
    async with AsyncSession(engine) as session:
        if cqrs.database.dialect == "postgresql":
            await cqrs.outbox(session).add_raw("raw", b"")
            with pytest.raises(ConfigurationError, match="psycopg"):
                await session.commit()
    await engine.dispose()


async def test_a_handler_asks_for_the_outbox_and_its_message_is_committed_with_the_command(cqrs: CQRS) -> None:
    message_id = await cqrs.mediator.send(Add(key="k"))
    [row] = await rows(cqrs)
    assert (row.id, row.topic, row.key, row.payload) == (message_id, "raw", "k", b"bytes")
    assert json.loads(row.headers)["causation-id"]


class Failing(Command[None]):
    pass


class Asking(Query[None]):
    pass


async def test_a_handler_that_fails_sends_nothing_and_a_query_never(database_url: str) -> None:
    cqrs = make(database_url)

    @cqrs.handles(Failing)
    async def fail(_: Failing, outbox: Outbox, unit_of_work: UnitOfWork) -> None:
        await outbox.add_raw("raw", b"kept")
        with pytest.raises(LookupError):
            async with unit_of_work.savepoint():
                await outbox.add_raw("raw", b"undone")
                raise LookupError
        await outbox.add(Noted(text="n"))
        raise CqrsError

    @cqrs.handles(Asking)
    async def ask(_: Asking, outbox: Outbox) -> None:
        await outbox.add_raw("raw", b"never")

    async with running(cqrs):
        with pytest.raises(CqrsError):
            await cqrs.mediator.send(Failing())
        with pytest.raises(ReadOnlyError, match="a query sends a message"):
            await cqrs.mediator.send(Asking())
        assert await payloads(cqrs) == []


async def test_a_savepoint_of_a_unit_of_work_that_is_undone_drops_its_messages(database_url: str) -> None:
    cqrs = make(database_url)

    @cqrs.handles(Failing)
    async def half(_: Failing, outbox: Outbox, unit_of_work: UnitOfWork) -> None:
        await outbox.add_raw("raw", b"kept")
        with pytest.raises(LookupError):
            async with unit_of_work.savepoint():
                await outbox.add_raw("raw", b"undone")
                raise LookupError

    async with running(cqrs):
        await cqrs.mediator.send(Failing())
        assert await payloads(cqrs) == [b"kept"]


async def test_a_stored_event_with_a_key_of_its_own_is_sent_under_it_and_names_its_stream(cqrs: CQRS) -> None:
    order = uuid4()
    await cqrs.mediator.send(Place(order_id=order, customer="c-7", number=1))
    [row] = await rows(cqrs)
    assert (row.topic, row.key, row.aggregateid) == ("orders", "c-7", f"order-{order}")
    assert json.loads(row.headers)["source-stream"] == f"order-{order}"


async def test_a_delay_and_a_moment_are_kept_by_the_clock_of_the_database(cqrs: CQRS, session: AsyncSession) -> None:
    moment = datetime.now(UTC) + timedelta(days=2)
    before = datetime.now(UTC)
    await cqrs.outbox(session).add_raw("raw", b"delayed", delay=timedelta(hours=1))
    await cqrs.outbox(session).add_raw("raw", b"at", at=moment)
    await cqrs.outbox(session).add_raw("raw", b"now")
    await session.commit()

    delayed, at, now = await rows(cqrs)
    assert timedelta(hours=1) <= delayed.available_at - before < timedelta(hours=1, minutes=1)
    assert at.available_at == moment
    assert now.available_at < before
    assert delayed.bucket < -1000
    assert at.bucket < -1000
    assert now.bucket >= 0


@pytest.mark.parametrize(
    ("delay", "at"),
    [
        (timedelta(seconds=-1), None),
        (timedelta(1), datetime(2030, 1, 1, tzinfo=UTC)),
        (None, datetime(2030, 1, 1)),  # noqa: DTZ001  # the case itself
    ],
)
async def test_a_time_that_is_none_is_refused(
    cqrs: CQRS, session: AsyncSession, delay: timedelta | None, at: datetime | None
) -> None:
    with pytest.raises(ValueError, match=r"delay|time zone"):
        await cqrs.outbox(session).add_raw("raw", b"", delay=delay, at=at)


async def test_identifiers_are_those_of_the_messages(cqrs: CQRS, session: AsyncSession) -> None:
    ids: list[UUID] = [await cqrs.outbox(session).add_raw("raw", b"") for _ in range(3)]
    await session.commit()
    assert [row.id for row in await rows(cqrs)] == ids
