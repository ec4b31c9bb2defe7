"""What handlers may ask of the transport, and those that every process has for itself."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from cqrs_fastapi import CQRS, Event, Metadata, ReceivedMessage, Settings
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.errors import ConfigurationError, RegistrationError, UnavailableError

pytestmark = pytest.mark.anyio


class Came(Event, name="other.came", topic="elsewhere"):
    what: str


class Own(Event):
    what: str


class OwnSent(Event, topic="sent"):
    what: str


def build(sqlite_url: str) -> CQRS:
    settings = Settings(
        database_url=sqlite_url,
        topic_partitions=1,
        handler_attempts=3,
        retry_backoff=timedelta(milliseconds=5),
        relay_poll=timedelta(milliseconds=50),
    )
    return CQRS(settings=settings)


async def put(cqrs: CQRS, *messages: tuple[str, str]) -> None:
    """Returns when they are settled."""
    publisher = await cqrs.broker.publisher()
    async with asyncio.timeout(30):
        await publisher.publish([message(key, what) for key, what in messages])
    await publisher.close()


def message(key: str, what: str) -> OutgoingMessage:
    message_id = uuid4()
    headers = {"message-id": str(message_id), "type": "other.came", "version": "1", "flavour": "sweet"}
    return OutgoingMessage(message_id, "elsewhere", key, f'{{"what":"{what}"}}'.encode(), headers)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_durable_handler_gets_what_is_known_of_the_transport(sqlite_url: str) -> None:
    cqrs, seen = build(sqlite_url), list[ReceivedMessage]()

    @cqrs.on(Came, name="curious")
    async def curious(event: Came, received: ReceivedMessage) -> None:
        seen.append(received)
        if len(seen) == 2:
            raise RuntimeError("planned")

    async with cqrs.running(workers=("consumer",)):
        await put(cqrs, ("k", "first"), ("k", "second"))
    assert [(one.topic, one.partition, one.offset, one.key) for one in seen] == [
        ("elsewhere", 0, 0, b"k"),
        ("elsewhere", 0, 1, b"k"),
        ("elsewhere", 0, 1, b"k"),
    ]
    assert [one.attempt for one in seen] == [1, 1, 2]
    assert {one.headers["flavour"] for one in seen} == {b"sweet"}
    assert all(one.sent_at.tzinfo is not None for one in seen)


async def test_an_event_of_the_own_store_tells_its_stream_and_position(sqlite_url: str) -> None:
    cqrs, seen = build(sqlite_url), list[ReceivedMessage]()

    @cqrs.on(Own, name="curious")
    async def curious(event: Own, received: ReceivedMessage) -> None:
        seen.append(received)

    async with cqrs.running(workers=("consumer",)):
        await cqrs.event_mediator.publish(Own(what="x"))
        await until(lambda: seen)
    [one] = seen
    assert (one.topic.encode(), one.partition, one.attempt) == (one.key, -1, 1)
    assert one.offset > 0


async def test_an_event_that_was_handed_in_tells_nothing_of_a_transport(sqlite_url: str) -> None:
    cqrs, seen = build(sqlite_url), list[ReceivedMessage]()

    @cqrs.on(Came, name="curious")
    async def curious(event: Came, received: ReceivedMessage, metadata: Metadata) -> None:
        seen.append(received)

    async with cqrs.running(workers=()):
        await cqrs.event_mediator.handle(Came(what="x"), message_id=uuid4())
    assert [(one.topic, one.partition, one.offset, one.key) for one in seen] == [("", -1, -1, None)]


async def test_only_what_is_received_may_be_asked_where_it_came_from(sqlite_url: str) -> None:
    cqrs = build(sqlite_url)

    @cqrs.on(Own, when="in_transaction")
    async def curious(event: Own, received: ReceivedMessage) -> None: ...

    with pytest.raises(RegistrationError, match="ReceivedMessage, which nothing provides"):
        async with cqrs.running(workers=()):
            pass


async def test_only_what_is_received_has_a_group_or_shares_a_transaction(sqlite_url: str) -> None:
    for named in ({"group": "each process"}, {"effects": "database"}):
        cqrs = build(sqlite_url)

        async def react(event: Own) -> None: ...

        cqrs.events.bind(Own, react, when="in_transaction", **named)  # type: ignore[arg-type]
        with pytest.raises(RegistrationError, match="leave group and effects out"):
            async with cqrs.running(workers=()):
                pass


async def test_an_event_without_a_topic_comes_to_no_process(sqlite_url: str) -> None:
    cqrs = build(sqlite_url)

    @cqrs.on(Own, name="cache", group="each process")
    async def cache(event: Own) -> None: ...

    with pytest.raises(ConfigurationError, match="has no topic by which it would come"):
        async with cqrs.running(workers=()):
            pass


async def test_a_handler_of_each_process_gets_events_of_the_own_service_too_and_has_no_inbox(sqlite_url: str) -> None:
    cqrs, seen, tried = build(sqlite_url), list[str](), list[int]()

    @cqrs.on(OwnSent, name="cache", group="each process")
    async def cache(event: OwnSent, received: ReceivedMessage) -> None:
        if event.what == "bad":
            tried.append(received.attempt)
            raise RuntimeError("planned")
        seen.append(event.what)

    async with cqrs.running(workers=("relay", "consumer")):
        for what in ("first", "bad", "last"):
            await cqrs.event_mediator.publish(OwnSent(what=what))
        await until(lambda: len(seen) == 2)
        await until(lambda: len(tried) == 3)
        tables = cqrs.database.tables
        rows = await cqrs.database.read(
            lambda c: [c.execute(one.select()).all() for one in (tables.inbox, tables.dead_letters, tables.checkpoints)]
        )
    assert seen == ["first", "last"]
    assert tried == [1, 2, 3]
    assert rows == [[], [], []]


async def test_a_handler_whose_dependency_is_away_waits_alone_and_keeps_its_order(sqlite_url: str) -> None:
    cqrs, done, away = build(sqlite_url), list[tuple[str, str]](), True

    @cqrs.on(Came, name="needy")
    async def needy(event: Came) -> None:
        if away and event.what.startswith("x"):
            raise UnavailableError("planned")
        done.append(("needy", event.what))

    @cqrs.on(Came, name="other")
    async def other(event: Came) -> None:
        done.append(("other", event.what))

    async with cqrs.running(workers=("consumer",)):
        putting = asyncio.ensure_future(put(cqrs, ("k", "x1"), ("k", "x2"), ("l", "y1"), ("k", "x3"), ("l", "y2")))
        await until(lambda: len(done) == 7)
        assert {what for handler, what in done if handler == "needy"} == {"y1", "y2"}
        assert not putting.done()
        away = False
        await putting
    assert [what for handler, what in done if handler == "needy" and what.startswith("x")] == ["x1", "x2", "x3"]
    assert [what for handler, what in done if handler == "other" and what.startswith("x")] == ["x1", "x2", "x3"]
