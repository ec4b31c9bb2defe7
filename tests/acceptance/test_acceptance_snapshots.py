"""What is promised of snapshots and of replays, of one program that uses them as its users do: embedded, and on
PostgreSQL.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    CqrsError,
    Decider,
    DomainError,
    Event,
    NotFoundError,
    Repository,
    Settings,
    applies,
    every,
    state,
    when_loading_takes,
)
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.testing import given

pytestmark = pytest.mark.anyio


class Added(Event):
    item: str


class Removed(Event):
    item: str


class Emptied(Event):
    pass


class Basket(Aggregate, category="basket", snapshots=every(7)):
    items: list[str] = state(list)

    @applies
    def on_added(self, event: Added) -> None:
        self.items.append(event.item)

    @applies
    def on_removed(self, event: Removed) -> None:
        self.items.remove(event.item)

    @applies
    def on_emptied(self, event: Emptied) -> None:
        self.items.clear()


class SortedBasket(Aggregate, category="basket", snapshots=every(7)):
    """The next version of the code, on the same streams, with the same state and another fold."""

    items: list[str] = state(list)

    @applies
    def on_added(self, event: Added) -> None:
        self.items = sorted([*self.items, event.item])

    @applies
    def on_removed(self, event: Removed) -> None:
        self.items.remove(event.item)

    @applies
    def on_emptied(self, event: Emptied) -> None:
        self.items.clear()


class Count(Decider[int], category="count", snapshots=when_loading_takes(timedelta(microseconds=1))):
    initial = 0

    @staticmethod
    def decide(state: int, command: Any) -> list[Event]:
        return [Added(item=str(state))]

    @staticmethod
    def evolve(state: int, event: Added) -> int:
        return state + 1


class Change(Command[list[str]]):
    basket: UUID
    events: list[Added | Removed | Emptied]
    refuse: bool = False


class ChangeSorted(Change):
    pass


class Tally(Command[int]):
    id: UUID


class RefusedError(DomainError):
    code = "refused"


@dataclass
class Shop:
    """The program."""

    cqrs: CQRS

    async def change(self, basket: UUID, *events: Event, refuse: bool = False, by: type[Change] = Change) -> list[str]:
        return await self.cqrs.mediator.send(by(basket=basket, events=list(events), refuse=refuse))

    async def rows(self, statement: str) -> list[Any]:
        return await self.cqrs.database.read(lambda connection: list(connection.execute(text(statement))))

    async def until(self, reached: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await reached():
                await asyncio.sleep(0.01)

    async def has_snapshot(self, version: int) -> None:
        async def reached() -> bool:
            return [row[0] for row in await self.rows("SELECT version FROM cqrs_snapshots")] == [version]

        await self.until(reached)


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    if database_url.startswith("postgresql"):
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()
    cqrs = CQRS(settings=Settings(database_url=database_url))

    @cqrs.handles(Change)
    async def change(command: Change, baskets: Repository[Basket]) -> list[str]:
        return _changed(await baskets.get_or_new(command.basket), command)

    @cqrs.handles(ChangeSorted)
    async def change_sorted(command: ChangeSorted, baskets: Repository[SortedBasket]) -> list[str]:
        return _changed(await baskets.get_or_new(command.basket), command)

    @cqrs.handles(Tally)
    async def tally(command: Tally, counts: Repository[Count]) -> int:
        count = await counts.get_or_new(command.id)
        count.execute(command)
        return count.state

    async with cqrs.running(workers=()):
        yield Shop(cqrs)


def _changed(basket: Basket | SortedBasket, command: Change) -> list[str]:
    for event in command.events:
        basket.record(event)
    if command.refuse:
        raise RefusedError("refused")
    return basket.items


def _random_events(chance: random.Random, items: list[str]) -> list[Event]:
    """Some that can happen to a basket with these items."""
    events: list[Event] = []
    items = list(items)
    for _ in range(chance.randint(1, 6)):
        if items and chance.random() < 0.4:
            events.append(Removed(item=items.pop(chance.randrange(len(items)))))
        elif chance.random() < 0.1:
            events.append(Emptied())
            items.clear()
        else:
            events.append(Added(item=chance.choice("abc")))
            items.append(events[-1].item)  # type: ignore[attr-defined]  # it is an Added
    return events


async def test_snapshots_every_n_events_are_written_after_the_commit_and_stand_for_what_is_before(shop: Shop) -> None:
    basket = uuid4()
    await shop.change(basket, *[Added(item="a")] * 6)
    assert await shop.rows("SELECT version FROM cqrs_snapshots") == []
    await shop.change(basket, Added(item="b"))
    await shop.has_snapshot(7)

    # What it stands for is not read again.
    await shop.cqrs.database.write(lambda c: c.execute(text("UPDATE cqrs_events SET type = 'Unknown'")) and None)
    assert await shop.change(basket, Added(item="c")) == ["a"] * 6 + ["b", "c"]


async def test_snapshots_by_measured_time_are_written_when_loading_took_long(shop: Shop) -> None:
    identity = uuid4()
    assert await shop.cqrs.mediator.send(Tally(id=identity)) == 1
    assert await shop.cqrs.mediator.send(Tally(id=identity)) == 2
    await shop.has_snapshot(2)
    assert await shop.cqrs.mediator.send(Tally(id=identity)) == 3


async def test_snapshots_are_not_taken_of_what_is_rolled_back(shop: Shop) -> None:
    basket = uuid4()
    with pytest.raises(RefusedError):
        await shop.change(basket, *[Added(item="a")] * 20, refuse=True)
    assert await shop.change(basket, *[Added(item="b")] * 7) == ["b"] * 7
    await shop.has_snapshot(7)


async def test_snapshots_of_other_code_are_ignored_and_rebuilt(shop: Shop) -> None:
    basket = uuid4()
    assert await shop.change(basket, *map(added, "edcbaed")) == list("edcbaed")
    await shop.has_snapshot(7)
    assert await shop.change(basket, added("a"), by=ChangeSorted) == sorted("edcbaeda")
    await shop.has_snapshot(8)
    assert await shop.change(basket, added("b")) == list("edcbaedab")
    await shop.has_snapshot(9)


def added(item: str) -> Event:
    return Added(item=item)


@pytest.mark.parametrize("seed", range(5))
async def test_snapshots_and_the_rest_give_what_folding_everything_gives(shop: Shop, seed: int) -> None:
    chance, basket, history = random.Random(seed), uuid4(), list[Event]()  # noqa: S311  # no secret
    items: list[str] = []
    for _ in range(25):
        events = _random_events(chance, items)
        by, code = chance.choice([(Change, Basket), (Change, Basket), (ChangeSorted, SortedBasket)])
        history += events
        whole = given(code, *history).when(lambda _: None).then()
        items = await shop.change(basket, *events, by=by)
        assert items == whole.items
        await asyncio.sleep(chance.random() / 100)  # what is written meanwhile is another matter each time


async def test_snapshots_go_with_their_stream(shop: Shop) -> None:
    basket = uuid4()
    await shop.change(basket, *[Added(item="a")] * 7)
    await shop.has_snapshot(7)
    await shop.cqrs.streams.delete(f"basket-{basket}")
    assert await shop.rows("SELECT version FROM cqrs_snapshots") == []
    with pytest.raises(NotFoundError, match="deleted"):
        await shop.change(basket, Added(item="b"))


async def test_an_event_that_breaks_an_invariant_on_replay_is_named_with_stream_and_version(shop: Shop) -> None:
    basket = uuid4()
    await shop.change(basket, Added(item="a"), Added(item="b"), Removed(item="a"))
    broken = text('UPDATE cqrs_events SET data = \'{"item": "z"}\' WHERE version = 3')
    await shop.cqrs.database.write(lambda connection: connection.execute(broken) and None)

    with pytest.raises(CqrsError) as caught:
        await shop.change(basket, Added(item="c"))
    assert caught.value.code == "replay"
    told = str(caught.value)
    assert f"Removed at version 3 of stream 'basket-{basket}'" in told
    assert "ValueError: list.remove(x): x not in list" in told
    assert isinstance(caught.value.__cause__, ValueError)
