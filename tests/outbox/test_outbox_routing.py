"""Where events go: by their classes, by a routing function, with a prefix, and when."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from datetime import timedelta
from uuid import uuid4

import pytest
from outbox_support import Add, Noted, Place, Placed, make, payloads, rows, running, settings_for

from cqrs_fastapi import CQRS, AnyEvent, Event, Personal, Route, event
from cqrs_fastapi.brokers.memory.broker import MemoryBroker
from cqrs_fastapi.brokers.memory.config import MemoryConfig
from cqrs_fastapi.brokers.prefixed import with_prefix
from cqrs_fastapi.errors import MalformedMessageError, RegistrationError
from cqrs_fastapi.outbox.routing import Routing

pytestmark = pytest.mark.anyio


class Keyed(Event, topic="keyed", key="both"):
    first: str
    second: str | None = None

    @property
    def both(self) -> str | None:
        return None if self.second is None else f"{self.first}/{self.second}"


class Renamed(Event, topic="people", key="team", subject="who"):
    who: str
    team: str
    name: Personal[str]


@event(topic="marked", key="place")
@dataclasses.dataclass(frozen=True)
class Marked:
    place: str


async def test_a_routing_function_says_for_each_class_where_it_goes(database_url: str) -> None:
    asked: list[type[AnyEvent]] = []

    def route(event_type: type[AnyEvent]) -> Route | None:
        asked.append(event_type)
        if event_type is Noted:
            return Route("all-notes", key="text", ordered=False)
        return None if event_type is Placed else Route.of(event_type)

    async with running(make(database_url, route=route)) as cqrs:
        count = len(asked)
        async with cqrs.scope() as scope:
            await scope.publish(Noted(text="n"))
            await scope.send(Place(order_id=uuid4(), customer="c"))
        [row] = await rows(cqrs)
    assert (row.topic, row.key) == ("all-notes", "n")
    assert len(asked) == count == len(set(asked))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Route("no topic!"), "which is no topic"),
        (Route("t", key="missing"), "has no such field or property"),
        (Route("t", key="name"), "is personal, and keys are not encrypted"),
        ("t", "write: return Route"),
    ],
)
async def test_a_route_that_cannot_work_is_told_at_the_start(sqlite_url: str, given: object, told: str) -> None:
    class Moved(Event, subject="who"):
        who: str
        name: Personal[str]

    cqrs = CQRS(
        settings=settings_for(sqlite_url, personal_data_keys="main:" + "A" * 43 + "="),
        route=lambda event_type: given if event_type is Moved else None,  # type: ignore[arg-type,return-value]  # the case
    )
    cqrs.register(Moved)
    with pytest.raises(RegistrationError, match=told):
        await cqrs.open()


def test_a_key_without_a_topic_is_refused_where_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="no topic"):
        type("Nowhere", (Event,), {"__annotations__": {"a": str}}, key="a")


def test_a_property_may_be_a_key_and_none_is_no_key() -> None:
    route = Routing().of(Keyed)
    assert route is not None
    assert route.key_of(Keyed(first="a", second="b"), "stream-1") == "a/b"
    assert route.key_of(Keyed(first="a"), "stream-1") is None
    with pytest.raises(MalformedMessageError, match="512"):
        route.key_of(Keyed(first="a", second="b" * 600), "stream-1")


def test_marked_classes_have_keys_too() -> None:
    route = Routing().of(Marked)
    assert route is not None
    assert route.key_of(Marked("here"), None) == "here"


async def test_personal_values_of_an_event_that_is_routed_by_another_key_are_read_by_its_receiver(
    database_url: str,
) -> None:
    keys = "main:" + "A" * 43 + "="
    broker = MemoryBroker(MemoryConfig())
    heard: asyncio.Queue[str] = asyncio.Queue()
    cqrs = CQRS(settings=settings_for(database_url, personal_data_keys=keys), broker=broker)

    @cqrs.on(Renamed)
    async def hear(event: Renamed) -> None:
        heard.put_nowait(event.name)

    async with running(cqrs, ("relay", "consumer")), asyncio.timeout(20):
        async with cqrs.scope() as scope:
            await scope.publish(Renamed(who="w", team="t", name="Ada"))
        async with cqrs.database.session() as session:
            await cqrs.outbox(session).add(Renamed(who="w", team="t", name="Bob"))
            await session.commit()
        assert {await heard.get(), await heard.get()} == {"Ada", "Bob"}


async def test_topics_and_groups_have_the_prefix_at_the_broker_and_nowhere_else(database_url: str) -> None:
    broker = MemoryBroker(MemoryConfig())
    settings = settings_for(database_url, topic_prefix="staging.")
    heard: asyncio.Queue[str] = asyncio.Queue()
    cqrs = CQRS(settings=settings, broker=broker)

    @cqrs.on(Noted)
    async def hear(event: Noted) -> None:
        heard.put_nowait(event.text)

    async with running(cqrs), asyncio.timeout(20):
        async with cqrs.database.session() as session:
            await cqrs.outbox(session).add(Noted(text="n"))
            await session.commit()
        [row] = await rows(cqrs)
        assert row.topic == "notes"
        there = await broker.subscribe("somebody", ["staging.notes"])
        async with asyncio.TaskGroup() as tasks:
            stop = asyncio.Event()
            tasks.create_task(cqrs.worker("relay").run(stop))
            tasks.create_task(cqrs.worker("consumer").run(stop))
            [message] = await there.receive()
            await there.settle([message])
            assert message.topic == "staging.notes"
            assert await heard.get() == "n"
            stop.set()
        assert set(broker._groups) == {"staging.tests", "somebody"}
        assert cqrs.topics.names(["more"]) == ["staging.more", "staging.notes"]


def test_without_a_prefix_the_broker_is_the_broker() -> None:
    broker = MemoryBroker(MemoryConfig())
    assert with_prefix(broker, "") is broker


async def test_a_delayed_message_is_sent_when_it_is_due_and_no_earlier(database_url: str) -> None:
    broker = MemoryBroker(MemoryConfig())
    async with running(make(database_url, broker=broker)) as cqrs, asyncio.timeout(30):
        subscription = await broker.subscribe("somebody", ["raw"])
        stop = asyncio.Event()
        relay = asyncio.create_task(cqrs.worker("relay").run(stop))
        begun = asyncio.get_running_loop().time()
        await cqrs.mediator.send(Add(key="k", payload=b"later", delay=timedelta(seconds=1)))
        await cqrs.mediator.send(Add(key="k", payload=b"now"))
        received: list[bytes] = []
        while len(received) < 2:
            messages = await subscription.receive()
            received += [message.payload for message in messages]
            await subscription.settle(messages)
        assert received == [b"now", b"later"]
        assert asyncio.get_running_loop().time() - begun >= 1
        stop.set()
        await relay
        assert await payloads(cqrs) == []


async def test_a_commit_of_the_applications_own_session_wakes_the_relay(sqlite_url: str) -> None:
    broker = MemoryBroker(MemoryConfig())
    cqrs = CQRS(settings=settings_for(sqlite_url).model_copy(update={"relay_poll": timedelta(hours=1)}), broker=broker)
    async with running(cqrs), asyncio.timeout(20):
        subscription = await broker.subscribe("somebody", ["raw"])
        stop = asyncio.Event()
        relay = asyncio.create_task(cqrs.worker("relay").run(stop))
        await asyncio.sleep(0.3)  # it has looked, and waits for an hour
        for number in range(2):
            async with cqrs.database.session() as session:
                await cqrs.outbox(session).add_raw("raw", b"%d" % number)
                await session.commit()
            [message] = await subscription.receive()
            await subscription.settle([message])
        stop.set()
        await relay


async def test_headers_of_bytes_are_those_that_were_given(sqlite_url: str) -> None:
    async with running(make(sqlite_url)) as cqrs:
        async with cqrs.database.session() as session:
            given = {"content-type": "application/avro", "type": "theirs", "version": "3", "own": "x"}
            await cqrs.outbox(session).add_raw("raw", b"", headers=given)
            await session.commit()
        [row] = await rows(cqrs)
    headers = json.loads(row.headers)
    assert given.items() <= headers.items()
    assert row.type == "theirs"
