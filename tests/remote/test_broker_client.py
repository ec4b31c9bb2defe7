"""The client: inside and outside of units of work, one reply and many, and what is left when somebody leaves."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from warehouse import Names, Reserve, Script, SoldOutError, Stock, done, prepare, settings_of, until, warehouse_of

from cqrs_fastapi import CQRS, BrokerClient, Command, Event, Query, RemoteUnknownOutcomeError, Settings, UnitOfWork
from cqrs_fastapi.errors import MessageTooLargeError, OverloadedError, ReadOnlyError, UnavailableError
from cqrs_fastapi.remote.errors import InsideUnitOfWorkError

pytestmark = pytest.mark.anyio


class Buy(Command[str]):
    item: str
    way: str
    fails: bool = False


class Look(Query[str]):
    item: str
    way: str


class Bought(Event):
    item: str


@pytest.fixture
async def shop(warehouse: CQRS, tmp_path: Path, names: Names) -> AsyncIterator[CQRS]:
    """A shop whose handlers ask the warehouse."""
    settings = settings_of(f"shop-{names.run}", f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}", "memory://")
    cqrs = CQRS(settings=settings, broker=warehouse.broker)
    cqrs.register(Bought)

    @cqrs.handles(Buy)
    async def buy(command: Buy, unit: UnitOfWork, client: BrokerClient) -> str:
        unit.publish(Bought(item=command.item))
        if command.way == "send":
            await client.send(Reserve(item=command.item), topic=names("Reserve"))
        if command.way == "look":
            return ",".join(await client.send(Stock(item=command.item), topic=names("Stock")))
        await client.post(Reserve(item=command.item), topic=names("Reserve"))
        if command.fails:
            raise SoldOutError("changed my mind")
        return "posted"

    @cqrs.handles(Look)
    async def look(query: Look, client: BrokerClient) -> str:
        if query.way == "post":
            await client.post(Reserve(item=query.item), topic=names("Reserve"))
        if query.way == "command":
            await client.send(Reserve(item=query.item), topic=names("Reserve"))
        return ",".join(await client.send(Stock(item=query.item), topic=names("Stock")))

    await prepare(cqrs)
    async with cqrs.running(workers=("relay",)):
        yield cqrs


async def test_a_command_that_is_posted_leaves_with_the_commit(shop: CQRS, warehouse: CQRS) -> None:
    assert await shop.mediator.send(Buy(item="chair", way="post")) == "posted"
    await until(lambda: done(warehouse))

    assert await done(warehouse) == ["chair"]


async def test_a_command_that_is_posted_in_a_unit_that_fails_is_never_sent(shop: CQRS, warehouse: CQRS) -> None:
    with pytest.raises(SoldOutError):
        await shop.mediator.send(Buy(item="chair", way="post", fails=True))
    await shop.mediator.send(Buy(item="table", way="post"))
    await until(lambda: done(warehouse))

    assert await done(warehouse) == ["table"]


async def test_outside_of_a_unit_a_posted_command_has_a_transaction_of_its_own(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    message_id = uuid4()
    for _ in range(2):
        posted = await shop.broker_client.post(Reserve(item="chair"), topic=names("Reserve"), message_id=message_id)
        assert posted == message_id
    await until(lambda: done(warehouse))

    assert await done(warehouse) == ["chair"]
    assert [seen.message_id for seen in script.seen] == [message_id]


async def test_waiting_for_a_commands_reply_inside_of_a_unit_is_refused(shop: CQRS, warehouse: CQRS) -> None:
    with pytest.raises(InsideUnitOfWorkError, match=r"client\.post"):
        await shop.mediator.send(Buy(item="chair", way="send"))

    assert await done(warehouse) == []


async def test_a_query_may_be_asked_inside_of_a_unit(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"))

    assert await shop.mediator.send(Buy(item="chair", way="look")) == "chair"
    assert await shop.mediator.send(Look(item="chair", way="")) == "chair"


@pytest.mark.parametrize("way", ["post", "command"])
async def test_a_query_sends_no_command_to_others_either(shop: CQRS, way: str) -> None:
    with pytest.raises(ReadOnlyError, match="Reserve"):
        await shop.mediator.send(Look(item="chair", way=way))


async def test_inside_of_a_scope_a_posted_command_joins_it(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    with pytest.raises(RuntimeError, match="planned"):
        async with shop.scope():
            await shop.broker_client.post(Reserve(item="chair"), topic=names("Reserve"))
            raise RuntimeError("planned")
    async with shop.scope():
        await shop.broker_client.post(Reserve(item="table"), topic=names("Reserve"))
    await until(lambda: done(warehouse))

    assert await done(warehouse) == ["table"]


async def test_what_is_no_request_or_too_large_is_refused_unsent(shop: CQRS, names: Names) -> None:
    with pytest.raises(TypeError, match="neither a Command nor a Query"):
        await shop.broker_client.send(Bought(item="x"), topic=names("Reserve"))  # type: ignore[type-var]
    with pytest.raises(TypeError, match="no command"):
        await shop.broker_client.post(Stock(item="x"), topic=names("Stock"))
    with pytest.raises(MessageTooLargeError):
        await shop.broker_client.send(Reserve(item="x" * 100_000), topic=names("Reserve"))


async def test_a_caller_who_leaves_leaves_nothing_that_waits(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.waits["chair"] = asyncio.Event()
    asking = asyncio.create_task(shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve")))
    await until(lambda: script.seen)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    script.waits["chair"].set()
    await until(lambda: done(warehouse))

    assert len(shop.broker_client.line.pending) == 0
    await until(lambda: not [task for task in asyncio.all_tasks() if "DirectSender" in repr(task)])


async def test_only_so_many_requests_wait_at_once(shop: CQRS, names: Names, script: Script) -> None:
    script.waits["chair"] = asyncio.Event()
    shop.broker_client.line.pending.limit = 3
    asks = [shop.broker_client.send(Stock(item="chair"), topic=names("Stock")) for _ in range(4)]
    asking = [asyncio.create_task(ask) for ask in asks]
    refused, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)

    assert [type(task.exception()) for task in refused] == [OverloadedError]
    script.waits["chair"].set()
    await asyncio.wait(asking)


async def test_whoever_waits_when_the_application_stops_learns_that_no_reply_will_come(
    warehouse: CQRS, tmp_path: Path, names: Names, script: Script
) -> None:
    script.waits["chair"] = asyncio.Event()
    settings = settings_of("leaver", f"sqlite+aiosqlite:///{tmp_path / 'leaver.db'}", "memory://")
    leaver = CQRS(settings=settings, broker=warehouse.broker)
    async with leaver.running(workers=()):
        client = leaver.broker_client
        asking = asyncio.create_task(client.send(Reserve(item="chair"), topic=names("Reserve"), timeout=60))
        await until(lambda: script.seen)

    with pytest.raises(RemoteUnknownOutcomeError, match="stopping"):
        await asking
    with pytest.raises(UnavailableError, match="stopped"):
        await client.send(Reserve(item="chair"), topic=names("Reserve"))
    script.waits["chair"].set()


async def test_a_broker_that_is_away_is_told_at_once_and_nothing_was_sent(sqlite_url: str) -> None:
    cqrs = CQRS(settings=Settings(database_url=sqlite_url, broker_url="kafka://127.0.0.1:1"))
    async with cqrs.running(workers=()):
        began = time.monotonic()
        for request in (Reserve(item="chair"), Stock(item="chair")):
            with pytest.raises(UnavailableError):
                await cqrs.broker_client.send(request, topic="Anything", timeout=30)
        assert time.monotonic() - began < 20


@pytest.fixture
async def second(warehouse: CQRS, script: Script, names: Names) -> AsyncIterator[CQRS]:
    """Another process of the warehouse, as far as the framework can tell."""
    cqrs = warehouse_of(warehouse.settings, script, names, warehouse.broker)
    async with cqrs.running(workers=("consumer",)):
        yield cqrs


async def test_every_process_answers_what_is_bound_to_all(
    shop: CQRS, warehouse: CQRS, second: CQRS, names: Names
) -> None:
    replies = await shop.broker_client.ask_many(Stock(item="chair"), topic=names("StockEverywhere"), replies=2)

    assert (replies.complete, replies.errors) == (True, ())
    assert [answer.value for answer in replies.answers] == [[], []]


async def test_without_a_number_the_time_ends_the_waiting(
    shop: CQRS, warehouse: CQRS, second: CQRS, names: Names, script: Script
) -> None:
    script.raises["chair"] = [SoldOutError("none")]
    replies = await shop.broker_client.ask_many(Stock(item="chair"), topic=names("StockEverywhere"), timeout=1)

    assert (len(replies.answers), len(replies.errors), replies.complete) == (1, 1, False)
    assert len(shop.broker_client.line.pending) == 0


async def test_a_command_to_all_is_carried_out_by_every_process_once(
    shop: CQRS, warehouse: CQRS, second: CQRS, names: Names
) -> None:
    message_id = uuid4()
    for _ in range(2):
        posting = shop.broker_client.post(
            Reserve(item="chair"), topic=names("ReserveEverywhere"), message_id=message_id
        )
        await posting
        await until(lambda: outbox_is_empty(shop))

    assert await done(warehouse) == ["chair", "chair"]


async def outbox_is_empty(cqrs: CQRS) -> bool:
    outbox = cqrs.database.tables.outbox
    return await cqrs.database.read(lambda c: c.execute(outbox.select()).first()) is None


async def test_several_services_answer_one_question(shop: CQRS, warehouse: CQRS, tmp_path: Path, names: Names) -> None:
    async with AsyncExitStack() as stack:
        for number in range(2):
            url = f"sqlite+aiosqlite:///{tmp_path / f'other{number}.db'}"
            other = warehouse_of(settings_of(f"other{number}", url, "memory://"), Script(), names, warehouse.broker)
            await prepare(other)
            await stack.enter_async_context(other.running(workers=("consumer",)))
        replies = await shop.broker_client.ask_many(Stock(item="chair"), topic=names("Stock"), replies=3)

    assert (len(replies.answers), replies.complete) == (3, True)


async def test_one_of_several_processes_carries_out_what_is_bound_to_one(
    shop: CQRS, warehouse: CQRS, second: CQRS, names: Names
) -> None:
    for number in range(6):
        await shop.broker_client.send(Reserve(item=f"chair{number}"), topic=names("Reserve"))

    assert sorted(await done(warehouse)) == [f"chair{number}" for number in range(6)]
