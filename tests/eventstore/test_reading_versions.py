"""Streams, all events, decisions and aggregates over what earlier code has stored, on both databases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    ConcurrencyError,
    Event,
    EventStore,
    Query,
    Repository,
    Settings,
    Upcast,
    applies,
    matching,
    upcasts,
)
from cqrs_fastapi.errors import MalformedMessageError, UnknownMessageError
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

CART = UUID(int=1)


class OldAdded(Event, name="ItemAdded", tags=("item",)):
    item: str
    count: int


class OldCleared(Event, name="cart.cleared"):
    pass


class Added(Event, name="cart.added", version=2, aliases=("ItemAdded",), tags=("item",)):
    item: str


class Counted(Event, name="cart.counted", tags=("item",)):
    item: str
    count: int


@upcasts("cart.added", version=1, into=[("cart.added", 2), ("cart.counted", 1)])
def count_apart(data: dict[str, Any]) -> Iterable[Upcast]:
    yield Upcast("cart.added", 2, {"item": data["item"]})
    if data["count"] > 1:
        yield Upcast("cart.counted", 1, data)


@upcasts("cart.cleared", version=1, into=[])
def forgotten(_: dict[str, Any]) -> Iterable[Upcast]:
    return ()


class Cart(Aggregate, category="cart"):
    counts: tuple[tuple[str, int], ...] = ()

    @applies
    def on_added(self, event: Added) -> None:
        self.counts = (*self.counts, (event.item, 1))

    @applies
    def on_counted(self, event: Counted) -> None:
        self.counts = (*self.counts[:-1], (event.item, event.count))


class Put(Command[None]):
    pass


class Add(Command[int]):
    item: str


class AddOnce(Command[int]):
    item: str
    meanwhile: bool = False


class Look(Query[list[Any]]):
    how: str
    limit: int | None = None


def settings(url: str) -> Settings:
    return Settings(database_url=url, service="tests", conflict_retries=0)


@pytest.fixture
async def url(database_url: str) -> str:
    """Three events of long ago in one stream: the first becomes two, the second none, the third one."""
    cqrs = CQRS(settings=settings(database_url))
    cqrs.register(OldAdded, OldCleared)

    @cqrs.handles(Put)
    async def put(_: Put, store: EventStore) -> None:
        events = [OldAdded(item="pen", count=3), OldCleared(), OldAdded(item="ink", count=1)]
        await store.append(f"cart-{CART}", events)

    if database_url.startswith("postgresql"):
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Put())
    return database_url


def today(url: str) -> CQRS:
    cqrs = CQRS(settings=settings(url))
    cqrs.register(Added, Counted)
    cqrs.upcasters.include(count_apart, forgotten)

    @cqrs.handles(Add)
    async def add(command: Add, carts: Repository[Cart]) -> int:
        cart = await carts.get(CART)
        cart.record(Added(item=command.item))
        return cart.version

    @cqrs.handles(AddOnce)
    async def add_once(command: AddOnce, store: EventStore) -> int:
        found = await store.decide(matching(Added, item=command.item))
        if command.meanwhile:
            await cqrs.mediator.send(Add(item=command.item))
        stream = f"cart-{uuid4()}"
        await store.append(stream, [Added(item=command.item)], condition=found.condition)
        return len(found.events)

    @cqrs.handles(Look)
    async def look(query: Look, store: EventStore, carts: Repository[Cart]) -> list[Any]:
        if query.how == "cart":
            cart = await carts.get(CART)
            return [cart.counts, cart.version]
        if query.how == "decide":
            found = await store.decide(matching(Counted, item="pen"))
            return [(one.version, one.event) for one in found.events]
        given: dict[str, Any] = {} if query.limit is None else {"limit": query.limit}
        reading = {
            "stream": lambda: store.read(f"cart-{CART}", **given),
            "backwards": lambda: store.read(f"cart-{CART}", backwards=True, **given),
            "all": lambda: store.read_all(**given),
            "Counted": lambda: store.read_all(types=[Counted], **given),
            "Added": lambda: store.read_all(types=[Added], **given),
        }[query.how]()
        return [(one.version, one.event) async for one in reading]

    return cqrs


PEN, THREE, INK = (1, Added(item="pen")), (1, Counted(item="pen", count=3)), (3, Added(item="ink"))


@pytest.mark.parametrize(
    ("how", "limit", "wanted"),
    [
        ("stream", None, [PEN, THREE, INK]),
        ("stream", 1, [PEN, THREE]),
        ("backwards", None, [INK, THREE, PEN]),
        ("all", None, [PEN, THREE, INK]),
        ("all", 1, [PEN, THREE]),
        ("Counted", None, [THREE]),
        ("Added", None, [PEN, INK]),
        ("Added", 1, [PEN]),
        ("decide", None, [THREE]),
        ("cart", None, [(("pen", 3), ("ink", 1)), 3]),
    ],
)
async def test_what_was_stored_under_other_names_and_versions_is_found_and_read(
    url: str, how: str, limit: int | None, wanted: list[Any]
) -> None:
    cqrs = today(url)
    async with cqrs.running(workers=()):
        assert await cqrs.mediator.send(Look(how=how, limit=limit)) == wanted


async def test_an_aggregate_goes_on_from_the_version_that_is_stored(url: str) -> None:
    cqrs = today(url)
    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Add(item="cup"))
        counts, version = await cqrs.mediator.send(Look(how="cart"))
        assert (counts[-1], version) == (("cup", 1), 4)


async def test_a_decision_rests_on_former_names_and_is_broken_by_present_ones(url: str) -> None:
    cqrs = today(url)
    async with cqrs.running(workers=()):
        assert await cqrs.mediator.send(AddOnce(item="pen")) == 1
        with pytest.raises(ConcurrencyError):
            await cqrs.mediator.send(AddOnce(item="ink", meanwhile=True))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"schema_version": 7}, UnknownMessageError, "'ItemAdded' version 7: no message 'ItemAdded' version 7"),
        ({"data": '{"item":"ink"}'}, MalformedMessageError, "'ItemAdded' version 1: the upcaster count_apart of"),
        ({"data": '{"item":1,"count":1}'}, MalformedMessageError, "'ItemAdded' version 1: Added: item: Input should"),
    ],
)
async def test_an_event_that_cannot_be_read_is_told_with_its_place(
    url: str, change: dict[str, Any], error: type[Exception], told: str
) -> None:
    cqrs = today(url)
    events = cqrs.database.tables.events
    async with cqrs.running(workers=()):
        broken = update(events).where(events.c.version == 3).values(**change)
        await cqrs.database.write(lambda connection: connection.execute(broken))
        for how in ("cart", "stream"):
            with pytest.raises(error) as caught:
                await cqrs.mediator.send(Look(how=how))
            assert str(caught.value).startswith(f"version 3 of stream 'cart-{CART}', {told}")
