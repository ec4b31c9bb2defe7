"""Durable handlers on events that were stored by earlier and by later code, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Command, Event, EventStore, Metadata, Projection, Settings, Upcast, on, upcasts
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.dead_letters.parking import Letter, newest
from cqrs_fastapi.eventstore.checkpoints import read_checkpoint
from cqrs_fastapi.mediation.event_map import Unknown
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

effects = Table(
    "effects", MetaData(), Column("n", Integer, primary_key=True), Column("what", String), Column("message_id", String)
)


class OldPlaced(Event, name="order.placed"):
    item: str
    gift: bool = False


class OldPinged(Event, name="order.pinged"):
    pass


class Placed(Event, name="order.placed", version=2):
    item: str


class Wrapped(Event, name="gift.wrapped"):
    item: str


class PlacedLater(Event, name="order.placed", version=3):
    item: str
    count: int


@upcasts("order.placed", version=1, into=[("order.placed", 2), ("gift.wrapped", 1)])
def gifts_apart(data: dict[str, Any]) -> Iterable[Upcast]:
    yield Upcast("order.placed", 2, {"item": data["item"]})
    if data["gift"]:
        yield Upcast("gift.wrapped", 1, {"item": data["item"]})


@upcasts("order.pinged", version=1, into=[("gift.wrapped", 1)])
def no_more(_: dict[str, Any]) -> Iterable[Upcast]:
    return ()


@upcasts("order.placed", version=2)
def counted(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "count": 1}


class Store(Command[None]):
    """Appends the events that the test has put into the script."""


class Script:
    """What the handler should do, and what it was given."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fails_at: set[str] = set()
        self.at_gate, self.gate = asyncio.Event(), asyncio.Event()
        self.stops_at = ""


def bare(url: str) -> CQRS:
    quick = {"retry_backoff": "PT0.01S", "handler_attempts": 2, "subscription_poll": "PT0.05S", "relay_poll": "PT0.05S"}
    return CQRS(settings=Settings(database_url=url, service="tests", drain_timeout="PT0.2S", **quick))


def storing(cqrs: CQRS, script: Script) -> None:
    @cqrs.handles(Store)
    async def store(_: Store, store: EventStore) -> None:
        await store.append("order-1", script.events)


def earlier(url: str, script: Script) -> CQRS:
    cqrs = bare(url)
    cqrs.register(OldPlaced, OldPinged)
    storing(cqrs, script)
    return cqrs


def today(url: str, script: Script, *bound: type[Event], unknown: Unknown = "hold") -> CQRS:
    cqrs = bare(url)
    cqrs.upcasters.include(gifts_apart, no_more)
    cqrs.register(Placed, Wrapped)
    storing(cqrs, script)

    async def pack(event: Any, session: AsyncSession, metadata: Metadata) -> None:
        what = f"{type(event).__name__} {event.item}"
        if script.stops_at == what:
            script.at_gate.set()
            await script.gate.wait()
        await session.execute(insert(effects).values(what=what, message_id=str(metadata.message_id)))
        if what in script.fails_at:
            raise RuntimeError("planned")

    for event_type in bound or (Placed, Wrapped):
        cqrs.events.bind(event_type, pack, name="packer", from_start=True, unknown=unknown)
    return cqrs


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def url(database_url: str) -> str:
    cqrs = bare(database_url)
    if database_url.startswith("sqlite"):
        await cqrs.database.open()
    async with cqrs.database.engine.begin() as connection:
        if database_url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    await cqrs.database.close()
    return database_url


async def stored(url: str, script: Script, *events: Event) -> list[UUID]:
    """Store them with the code of long ago; their message ids."""
    cqrs = earlier(url, script)
    script.events = list(events)
    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Store())
        table = cqrs.database.tables.events
        query = select(table.c.message_id).order_by(table.c.position)
        return list(await cqrs.database.read(lambda c: c.execute(query).scalars().all()))


async def done(cqrs: CQRS) -> list[tuple[str, str]]:
    query = select(effects.c.what, effects.c.message_id).order_by(effects.c.n)
    return [(row[0], row[1]) for row in await cqrs.database.read(lambda c: c.execute(query).all())]


async def whats(cqrs: CQRS) -> list[str]:
    return [what for what, _ in await done(cqrs)]


async def position(cqrs: CQRS) -> int:
    found = await cqrs.database.read(lambda c: read_checkpoint(c, cqrs.database.tables, "packer"))
    return -1 if found is None else found.position


async def inbox_rows(cqrs: CQRS) -> int:
    table = cqrs.database.tables.inbox
    return await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one())


async def letters(cqrs: CQRS) -> list[Letter]:
    return await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 100))


async def told(cqrs: CQRS) -> str:
    [check] = [check for check in (await cqrs.readiness()).checks if check.name == "subscriptions"]
    return check.detail


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def until_at(cqrs: CQRS, wanted: int) -> None:
    async def is_there() -> bool:
        return await position(cqrs) == wanted

    await until(is_there)


# One event that becomes several, or none.


async def test_what_becomes_several_is_handled_in_order_each_with_an_id_of_its_own(url: str, script: Script) -> None:
    first, second = await stored(url, script, OldPlaced(item="a", gift=True), OldPlaced(item="b", gift=False))
    cqrs = today(url, script)
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 2)
        assert await done(cqrs) == [
            ("Placed a", str(first)),
            ("Wrapped a", str(uuid5(first, "1"))),
            ("Placed b", str(second)),
        ]
        assert await inbox_rows(cqrs) == 3


async def test_after_a_kill_between_two_of_them_the_rest_is_handled_and_none_twice(url: str, script: Script) -> None:
    await stored(url, script, OldPlaced(item="a", gift=True))
    script.stops_at = "Wrapped a"
    killed = today(url, script)
    async with killed.running(workers=("consumer",)):

        async def first_is_done() -> bool:
            return await whats(killed) == ["Placed a"]

        await until(first_is_done)
        await script.at_gate.wait()
        assert await position(killed) == 0

    script.stops_at = ""
    cqrs = today(url, script)
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 1)
        assert await whats(cqrs) == ["Placed a", "Wrapped a"]
        assert await inbox_rows(cqrs) == 2


async def test_a_handler_of_one_of_them_gets_that_one(url: str, script: Script) -> None:
    [first] = await stored(url, script, OldPlaced(item="a", gift=True))
    cqrs = today(url, script, Wrapped)
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 1)
        assert await done(cqrs) == [("Wrapped a", str(uuid5(first, "1")))]


async def test_one_of_them_that_always_fails_is_parked_with_the_others_behind_it(url: str, script: Script) -> None:
    [first] = await stored(url, script, OldPlaced(item="a", gift=True))
    script.fails_at = {"Placed a"}
    cqrs = today(url, script)
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 1)
        assert await whats(cqrs) == []
        behind, letter = await letters(cqrs)
        assert (letter.message_id, letter.code, letter.offset) == (first, "RuntimeError", 1)
        assert (behind.message_id, behind.code, behind.offset) == (uuid5(first, "1"), "behind", 1)

        script.fails_at = set()
        assert await cqrs.dead_letters.replay_key("packer", "order-1") == 2
        assert await whats(cqrs) == ["Placed a", "Wrapped a"]
        assert await inbox_rows(cqrs) == 2


async def test_the_last_of_them_that_always_fails_takes_the_checkpoint_along(url: str, script: Script) -> None:
    [first] = await stored(url, script, OldPlaced(item="a", gift=True))
    script.fails_at = {"Wrapped a"}
    cqrs = today(url, script)
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 1)
        assert await whats(cqrs) == ["Placed a"]
        [letter] = await letters(cqrs)
        assert letter.message_id == uuid5(first, "1")


async def test_what_becomes_nothing_is_passed_over(url: str, script: Script) -> None:
    await stored(url, script, OldPinged(), OldPlaced(item="a"), OldPinged())
    cqrs = today(url, script)
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 3)
        assert await whats(cqrs) == ["Placed a"]


async def test_an_event_whose_upcaster_fails_is_parked_with_its_stream_behind_it(url: str, script: Script) -> None:
    await stored(url, script, OldPlaced(item="a"), OldPlaced(item="b"))
    cqrs = today(url, script)
    events = cqrs.database.tables.events
    async with cqrs.running(workers=()):
        broken = update(events).where(events.c.position == 1).values(data='{"item":"a"}')
        await cqrs.database.write(lambda c: c.execute(broken))
        await cqrs.start_workers(("consumer",))
        await until_at(cqrs, 2)
        assert await whats(cqrs) == []
        behind, letter = await letters(cqrs)
        assert behind.code == "behind"
        assert letter.error.startswith(
            "version 1 of stream 'order-1', 'order.placed' version 1: the upcaster gifts_apart of 'order.placed' "
            "version 1 failed with KeyError in line"
        )

        await cqrs.dead_letters.edit(letter.id, payload=b'{"item":"a","gift":true}')
        assert await cqrs.dead_letters.replay_key("packer", "order-1") == 2
        assert await whats(cqrs) == ["Placed a", "Wrapped a", "Placed b"]


# What this code cannot read yet.


async def of_later_code(url: str, script: Script) -> None:
    """Newer code stores its version between two of today's."""
    cqrs = bare(url)
    cqrs.register(Placed, PlacedLater)
    storing(cqrs, script)
    script.events = [Placed(item="a"), PlacedLater(item="b", count=2), Placed(item="c")]
    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Store())


async def test_a_version_of_later_code_is_waited_for_in_order_and_then_read(url: str, script: Script) -> None:
    await of_later_code(url, script)
    blue = today(url, script)
    async with blue.running(workers=("consumer",)):
        await until_at(blue, 1)

        async def is_told() -> bool:
            return "packer waits at position 2 for code that reads 'order.placed' version 3" in await told(blue)

        await until(is_told)
        assert (await blue.readiness()).ready
        assert await whats(blue) == ["Placed a"]
        assert await letters(blue) == []

    green = bare(url)
    green.upcasters.include(gifts_apart, counted)
    green.register(PlacedLater, Wrapped)
    green.projections.include(packer_of_later_code())
    async with green.running(workers=("consumer",)):
        await until_at(green, 3)
        assert await whats(green) == ["Placed a", "b 2", "c 1"]


def packer_of_later_code() -> type[Projection]:
    class Packer(Projection):
        @on(PlacedLater)
        async def placed(self, event: PlacedLater, session: AsyncSession) -> None:
            await session.execute(insert(effects).values(what=f"{event.item} {event.count}"))

    Packer.__projection__ = "packer"  # the handler's name, which a deployment keeps
    return Packer


async def test_what_is_held_goes_on_by_itself_once_the_store_is_repaired(url: str, script: Script) -> None:
    await of_later_code(url, script)
    cqrs = today(url, script)
    events = cqrs.database.tables.events
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 1)

        async def waits() -> bool:
            return "packer waits at position 2" in await told(cqrs)

        await until(waits)
        repaired = update(events).where(events.c.position == 2).values(schema_version=2)
        await cqrs.database.write(lambda c: c.execute(repaired))
        await until_at(cqrs, 3)
        assert await whats(cqrs) == ["Placed a", "Placed b", "Placed c"]

        async def is_up_to_date() -> bool:
            return await told(cqrs) == "up to date"

        await until(is_up_to_date)


async def test_a_handler_that_skips_passes_over_it(url: str, script: Script) -> None:
    await of_later_code(url, script)
    cqrs = today(url, script, unknown="skip")
    async with cqrs.running(workers=("consumer",)):
        await until_at(cqrs, 3)
        assert await whats(cqrs) == ["Placed a", "Placed c"]
        assert await letters(cqrs) == []


# What comes by the broker.


class Foreign(Event, name="other.thing", version=2, topic="elsewhere", aliases=("OtherThing",)):
    item: str


@upcasts("other.thing", version=1, into=[("other.thing", 2), ("other.thing", 2)])
def doubled(data: dict[str, Any]) -> list[Upcast]:
    return [Upcast("other.thing", 2, {"item": data["item"] + suffix}) for suffix in "xy"]


async def put(cqrs: CQRS, name: str, version: int, item: str) -> UUID:
    message_id = uuid4()
    headers = {"message-id": str(message_id), "type": name, "version": str(version)}
    publisher = await cqrs.broker.publisher()
    await publisher.publish([OutgoingMessage(message_id, "elsewhere", "k", f'{{"item":"{item}"}}'.encode(), headers)])
    await publisher.close()
    return message_id


def listening(url: str, script: Script, unknown: Unknown = "hold") -> CQRS:
    cqrs = today(url, script, Foreign, unknown=unknown)
    cqrs.upcasters.include(doubled)
    return cqrs


async def test_a_message_of_an_earlier_version_or_name_is_upcast_and_handled_once(url: str, script: Script) -> None:
    cqrs = listening(url, script)
    async with cqrs.running(workers=("consumer",)):
        first = await put(cqrs, "other.thing", 1, "a")
        second = await put(cqrs, "OtherThing", 2, "b")
        assert await done(cqrs) == [
            ("Foreign ax", str(first)),
            ("Foreign ay", str(uuid5(first, "1"))),
            ("Foreign b", str(second)),
        ]


async def test_a_message_that_comes_again_after_its_first_half_is_handled_to_its_end(url: str, script: Script) -> None:
    cqrs = listening(url, script)
    async with cqrs.running(workers=()):
        message_id = uuid4()
        await cqrs.event_mediator.handle(Foreign(item="ax"), message_id=message_id)
        await cqrs.start_workers(("consumer",))
        headers = {"message-id": str(message_id), "type": "other.thing", "version": "1"}
        publisher = await cqrs.broker.publisher()
        for _ in range(2):
            await publisher.publish([OutgoingMessage(message_id, "elsewhere", "k", b'{"item":"a"}', headers)])
        await publisher.close()
        assert await whats(cqrs) == ["Foreign ax", "Foreign ay"]


@pytest.mark.parametrize(("name", "version"), [("other.thing", 3), ("OtherThing", 3), ("nobody.knows", 1)])
@pytest.mark.parametrize("unknown", ["hold", "skip"])
async def test_an_unknown_message_is_kept_or_passed_over_as_the_handlers_want_it(
    url: str, script: Script, name: str, version: int, unknown: Unknown
) -> None:
    cqrs = listening(url, script, unknown)
    async with cqrs.running(workers=("consumer",)):
        message_id = await put(cqrs, name, version, "a")
        await put(cqrs, "other.thing", 2, "b")
        assert await whats(cqrs) == ["Foreign b"]
        kept = [(letter.message_id, letter.code) for letter in await letters(cqrs)]
        assert kept == ([] if unknown == "skip" else [(message_id, "unknown_message")])


async def test_one_handler_that_holds_is_enough_to_keep_an_unknown_message(url: str, script: Script) -> None:
    cqrs = listening(url, script, "skip")

    @cqrs.on(Foreign)
    async def careful(event: Foreign) -> None: ...

    async with cqrs.running(workers=("consumer",)):
        await put(cqrs, "other.thing", 3, "a")
        assert [letter.code for letter in await letters(cqrs)] == ["unknown_message"]


async def test_a_handler_that_skips_still_has_malformed_messages_kept(url: str, script: Script) -> None:
    cqrs = listening(url, script, "skip")
    async with cqrs.running(workers=("consumer",)):
        await put(cqrs, "other.thing", 2, '"')
        assert [letter.code for letter in await letters(cqrs)] == ["malformed_message"]
