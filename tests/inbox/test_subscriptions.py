"""Durable handlers and projections on the service's own store, with no broker between, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Column, Integer, MetaData, String, Table, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    Event,
    Metadata,
    Projection,
    Repository,
    Settings,
    UnitOfWork,
    applies,
    on,
)
from cqrs_fastapi.brokers.broker import Broker, IncomingMessage
from cqrs_fastapi.brokers.memory.broker import MemoryBroker
from cqrs_fastapi.dead_letters.parking import Letter, Reason, newest
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.checkpoints import Checkpoint, read_checkpoint
from cqrs_fastapi.eventstore.horizon import Holder, Horizon
from cqrs_fastapi.inbox.handling import PlaceLostError
from cqrs_fastapi.inbox.lag import Lag, without_values
from cqrs_fastapi.messages.metadata import Origin, enter, leave
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.runtime.subscription_gauges import SubscriptionGauges
from cqrs_fastapi.storage import leases

pytestmark = pytest.mark.anyio

effects = Table(
    "effects", MetaData(), Column("n", Integer, primary_key=True), Column("handler", String), Column("what", String)
)


class Opened(Event):
    what: str


class Moved(Event, topic="moves"):
    what: str


class Told(Event, topic="news"):
    what: str


class Thing(Aggregate, category="thing"):
    @applies
    def on_opened(self, event: Opened) -> None: ...

    @applies
    def on_moved(self, event: Moved) -> None: ...


class Open(Command[None]):
    what: str
    times: int = 1


class Move(Command[None]):
    what: str
    times: int = 1


class Tell(Command[None]):
    what: str


class History(Projection):
    @on(Opened)
    async def opened(self, event: Opened, session: AsyncSession) -> None:
        await write(session, "history", f"opened {event.what}")

    @on(Moved)
    async def moved(self, event: Moved, session: AsyncSession) -> None:
        await write(session, "history", f"moved {event.what}")


class Present(Projection, from_start=False):
    @on(Opened)
    async def opened(self, event: Opened, session: AsyncSession) -> None:
        await write(session, "present", event.what)


async def write(session: AsyncSession, handler: str, what: str) -> None:
    await session.execute(insert(effects).values(handler=handler, what=what))


class Script:
    """What handlers should do next, and what they were given."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.seen: list[tuple[str, Metadata]] = []
        self.raises: Callable[[], Exception] = lambda: RuntimeError("planned")
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()


def build(url: str, script: Script, broker: Broker | None = None, *projections: type[Projection], **given: Any) -> CQRS:
    settings = Settings(
        database_url=url,
        service="tests",
        retry_backoff="PT0.01S",
        handler_attempts=3,
        relay_poll="PT0.05S",
        subscription_poll="PT0.05S",
        drain_timeout="PT5S",
    )
    cqrs = CQRS(settings=settings, broker=broker)
    cqrs.register(Opened, Moved, Told)

    @cqrs.handles(Open)
    async def open_(command: Open, things: Repository[Thing]) -> None:
        for number in range(command.times):
            thing = await things.get_or_new(uuid4())
            thing.record(Opened(what=command.what if command.times == 1 else f"{command.what}{number}"))

    @cqrs.handles(Move)
    async def move(command: Move, things: Repository[Thing]) -> None:
        thing = await things.get_or_new(uuid4())
        for number in range(command.times):
            thing.record(Moved(what=command.what if command.times == 1 else f"{command.what}{number}"))

    @cqrs.handles(Tell)
    async def tell(command: Tell, unit: UnitOfWork) -> None:
        unit.publish(Told(what=command.what))

    async def work(event: Opened | Moved | Told, session: AsyncSession, metadata: Metadata) -> None:
        script.seen.append((event.what, metadata))
        script.entered.set()
        await script.gate.wait()
        await write(session, "worker", event.what)
        if script.failures.get(event.what, 0) > 0:
            script.failures[event.what] -= 1
            raise script.raises()

    if given.get("worker", True):
        for event_type in (Opened, Moved, Told):
            cqrs.events.bind(event_type, work, name="worker", from_start=given.get("from_start", False))  # type: ignore[arg-type]  # a union of three
    cqrs.projections.include(*projections)
    return cqrs


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def url(database_url: str) -> str:
    """A database with the framework's tables and the application's own."""
    cqrs = build(database_url, Script())
    if database_url.startswith("sqlite"):
        await cqrs.database.open()
    async with cqrs.database.engine.begin() as connection:
        if database_url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    await cqrs.database.close()
    return database_url


@pytest.fixture
async def cqrs(url: str, script: Script) -> AsyncIterator[CQRS]:
    """It runs no relay: nothing comes by the broker."""
    cqrs = build(url, script, None, History)
    async with cqrs.running(workers=("consumer",)):
        yield cqrs


async def done(cqrs: CQRS, handler: str = "worker") -> list[str]:
    query = select(effects.c.what).where(effects.c.handler == handler).order_by(effects.c.n)
    return list(await cqrs.database.read(lambda c: c.execute(query).scalars().all()))


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if await result if isinstance(result, Awaitable) else result:
                return
            await asyncio.sleep(0.02)


async def until_done(cqrs: CQRS, expected: list[str], handler: str = "worker") -> None:
    """In this order, and nothing else."""

    async def is_done() -> bool:
        return len(await done(cqrs, handler)) >= len(expected)

    await until(is_done)
    assert await done(cqrs, handler) == expected


async def count(cqrs: CQRS, table: str) -> int:
    wanted = getattr(cqrs.database.tables, table)
    return await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(wanted)).scalar_one())


async def letters(cqrs: CQRS) -> list[Letter]:
    return await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 100))


async def checkpoint(cqrs: CQRS, name: str = "worker") -> Checkpoint | None:
    return await cqrs.database.read(lambda c: read_checkpoint(c, cqrs.database.tables, name))


async def position(cqrs: CQRS, name: str = "worker") -> int:
    found = await checkpoint(cqrs, name)
    return found.position if found is not None else -1


async def positions_of(cqrs: CQRS) -> list[tuple[int, UUID]]:
    events = cqrs.database.tables.events
    query = select(events.c.position, events.c.message_id).order_by(events.c.position)
    return [(row[0], row[1]) for row in await cqrs.database.read(lambda c: c.execute(query).all())]


@asynccontextmanager
async def lease_held_elsewhere(cqrs: CQRS) -> AsyncIterator[None]:
    """Another process owns the subscriptions within the block; it gives them back at the end."""
    tables, name = cqrs.database.tables, "subscriptions:tests"
    owner, hour = uuid4(), timedelta(hours=1)
    lease = await cqrs.database.write(lambda c: leases.acquire(c, tables, name, owner, hour))
    assert lease is not None
    yield
    await cqrs.database.write(lambda c: leases.release(c, tables, lease))


async def test_handlers_get_what_the_service_has_stored_in_order_and_once(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Open(what="a", times=20))
    await cqrs.mediator.send(Move(what="b", times=10))

    wanted = [*(f"a{number}" for number in range(20)), *(f"b{number}" for number in range(10))]
    await until_done(cqrs, wanted)
    await until_done(
        cqrs, [("opened " if what.startswith("a") else "moved ") + what for what in wanted], handler="history"
    )
    assert await count(cqrs, "inbox") == 60
    assert await count(cqrs, "outbox") == 10


async def test_nothing_goes_to_the_outbox_for_the_sake_of_own_handlers(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Open(what="a"))
    assert await count(cqrs, "outbox") == 0
    await until_done(cqrs, ["a"])


async def test_the_metadata_of_the_event_is_current_in_its_handler(cqrs: CQRS, script: Script) -> None:
    metadata = Metadata(
        message_id=uuid4(), correlation_id="chain", time=cqrs.engine.clock.now(), user="ann", tenant="red"
    )
    token = enter(Origin(replace(metadata, headers={"x": "y"}, traceparent="00-1-2-03")))
    await cqrs.mediator.send(Open(what="a"))
    leave(token)
    await until_done(cqrs, ["a"])

    [(_, seen)] = script.seen
    [(_, message_id)] = await positions_of(cqrs)
    assert (seen.message_id, seen.correlation_id, seen.user, seen.tenant) == (message_id, "chain", "ann", "red")
    assert (seen.headers, seen.traceparent) == ({"x": "y"}, "00-1-2-03")
    assert seen.causation_id is not None


async def test_a_handler_that_fails_is_tried_again_before_what_comes_after(cqrs: CQRS, script: Script) -> None:
    script.failures["a1"] = 2
    await cqrs.mediator.send(Open(what="a", times=3))

    await until_done(cqrs, ["a0", "a1", "a2"])
    assert [what for what, _ in script.seen] == ["a0", "a1", "a1", "a1", "a2"]
    assert await letters(cqrs) == []


async def test_a_handler_that_always_fails_is_parked_with_its_inbox_row_and_checkpoint(
    cqrs: CQRS, script: Script
) -> None:
    script.failures["a1"] = 1000
    await cqrs.mediator.send(Open(what="a", times=3))
    await until_done(cqrs, ["a0", "a2"])

    [letter] = await letters(cqrs)
    [_, (second, message_id), (third, last)] = await positions_of(cqrs)
    stream = letter.topic
    assert (letter.consumer, letter.code, letter.error, letter.attempts) == ("worker", "RuntimeError", "planned", 3)
    assert (letter.message_id, letter.partition, letter.offset, letter.payload) == (
        message_id,
        -1,
        second,
        b'{"what":"a1"}',
    )
    assert stream.startswith("thing-")
    assert letter.key == stream.encode()
    assert (letter.headers["type"], letter.headers["version"]) == ("Opened", "1")
    assert letter.headers["message-id"] == str(message_id)
    assert await checkpoint(cqrs) == Checkpoint("worker", third, last, third)
    await until_done(cqrs, ["opened a0", "opened a1", "opened a2"], handler="history")


async def test_a_parked_event_leaves_nothing_where_its_reader_has_lost_its_place(cqrs: CQRS) -> None:
    def lost(_: object) -> None:
        raise PlaceLostError("planned")

    headers = {"message-id": str(uuid4()).encode()}
    message = IncomingMessage("thing-1", -1, 1, b"thing-1", b"{}", headers, datetime.now(UTC))
    with pytest.raises(PlaceLostError):
        await cqrs.engine._handlings().park("worker", message, Reason("x", "y"), asyncio.Event(), lost)

    assert (await count(cqrs, "inbox"), await letters(cqrs)) == (0, [])


async def test_what_is_parked_can_be_handled_again_by_its_dead_letter(cqrs: CQRS, script: Script) -> None:
    script.failures["a"] = 3
    await cqrs.mediator.send(Open(what="a"))
    await until(lambda: _has_letters(cqrs))
    [letter] = await letters(cqrs)
    [event] = cqrs.engine.registry.read(letter.headers["type"], int(letter.headers["version"]), letter.payload)

    await cqrs.event_mediator.handle(event, message_id=uuid4())
    assert await done(cqrs) == ["a"]


async def _has_letters(cqrs: CQRS) -> bool:
    return bool(await letters(cqrs))


async def test_a_database_that_is_away_is_waited_for_without_counting(cqrs: CQRS, script: Script) -> None:
    script.raises = lambda: UnavailableError("planned")
    script.failures["a"] = 8
    await cqrs.mediator.send(Open(what="a"))

    await until_done(cqrs, ["a"])
    assert await letters(cqrs) == []


async def test_an_event_that_cannot_be_read_is_parked_and_passed(cqrs: CQRS) -> None:
    events = cqrs.database.tables.events
    async with no_workers(cqrs):
        await cqrs.mediator.send(Open(what="a", times=3))
        rows = await positions_of(cqrs)
        broken = {"data": '{"what":1}'}
        await cqrs.database.write(
            lambda c: c.execute(update(events).where(events.c.position == rows[0][0]).values(**broken))
        )
        await cqrs.database.write(
            lambda c: c.execute(update(events).where(events.c.position == rows[1][0]).values(meta='["no object"]'))
        )
    await until_done(cqrs, ["a2"])

    found = sorted((letter.consumer, letter.offset, letter.code) for letter in await letters(cqrs))
    assert found == [
        ("History.v1", rows[0][0], "malformed_message"),
        ("History.v1", rows[1][0], "malformed_message"),
        ("worker", rows[0][0], "malformed_message"),
        ("worker", rows[1][0], "malformed_message"),
    ]


@asynccontextmanager
async def no_workers(cqrs: CQRS) -> AsyncIterator[None]:
    """Stop the workers for the time of the block, so that a test prepares what they will find."""
    await cqrs.stop_workers()
    yield
    cqrs.engine.draining = False
    await cqrs.start_workers(("consumer",))


async def test_a_checkpoint_moves_with_the_effects_and_then_to_the_end_of_what_was_read(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Open(what="a", times=5))
    await until_done(cqrs, [f"a{number}" for number in range(5)])
    [*_, (last, message_id)] = await positions_of(cqrs)
    assert await checkpoint(cqrs) == Checkpoint("worker", last, message_id, last)

    class Other(Event):
        pass

    await cqrs.database.write(lambda c: c.execute(insert(cqrs.database.tables.events), stranger(Other.__name__)))

    async def has_followed() -> bool:
        return await position(cqrs) == last + 1

    await until(has_followed)


def stranger(name: str) -> dict[str, Any]:
    """A row of a type that nobody here has bound."""
    return {
        "message_id": uuid4(),
        "stream": "other-1",
        "version": 1,
        "category": "other",
        "type": name,
        "schema_version": 1,
        "data": "{}",
        "meta": "{}",
        "recorded_at": datetime.now(UTC),
    }


# What comes by the broker as well.


async def test_a_stored_event_with_a_topic_is_handled_from_the_store_and_passed_over_at_the_broker(
    url: str, script: Script
) -> None:
    cqrs = build(url, script)
    async with cqrs.running(workers=("relay", "consumer")):
        await cqrs.mediator.send(Move(what="a", times=20))
        await until_done(cqrs, [f"a{number}" for number in range(20)])
        await until(lambda: _is_empty(cqrs, "outbox"))
        assert len(script.seen) == 20
    assert await position_after(cqrs) == 20


async def position_after(cqrs: CQRS) -> int:
    await cqrs.database.open()
    try:
        return await position(cqrs)
    finally:
        await cqrs.database.close()


async def _is_empty(cqrs: CQRS, table: str) -> bool:
    return await count(cqrs, table) == 0


async def test_the_broker_s_copy_of_a_stored_event_is_never_given_to_a_handler(url: str, script: Script) -> None:
    """Also where the store's reader is late: the copy is acknowledged, and the handler waits for the store."""
    cqrs = build(url, script)
    await cqrs.open()
    try:
        async with lease_held_elsewhere(cqrs):
            await cqrs.start_workers(("relay", "consumer"))
            await cqrs.mediator.send(Move(what="a"))
            await until(lambda: _is_empty(cqrs, "outbox"))
            assert script.seen == []
        await until_done(cqrs, ["a"])
        assert len(script.seen) == 1
    finally:
        await cqrs.stop_workers()
        await cqrs.close()


async def test_an_event_with_a_topic_and_no_stream_comes_by_the_broker(url: str, script: Script) -> None:
    cqrs = build(url, script)
    async with cqrs.running(workers=("relay", "consumer")):
        await cqrs.mediator.send(Tell(what="a"))
        await until_done(cqrs, ["a"])
        assert await count(cqrs, "events") == 0


async def test_events_of_another_service_come_by_the_broker(url: str, script: Script, tmp_path: Any) -> None:
    broker = MemoryBroker()
    other = CQRS(
        settings=Settings(database_url=f"sqlite+aiosqlite:///{tmp_path / 'other.db'}", service="other"), broker=broker
    )

    @other.handles(Move)
    async def move(command: Move, things: Repository[Thing]) -> None:
        (await things.get_or_new(uuid4())).record(Moved(what=command.what))

    other.register(Moved)
    cqrs = build(url, script, broker)
    async with cqrs.running(workers=("relay", "consumer")), other.running(workers=("relay", "consumer")):
        await other.mediator.send(Move(what="foreign"))
        await until_done(cqrs, ["foreign"])
        assert await count(cqrs, "events") == 0


async def test_a_message_that_only_claims_to_be_ours_is_handled(url: str, script: Script) -> None:
    """What decides is the store, not what a stranger writes into headers or keys."""
    cqrs = build(url, script)
    async with cqrs.running(workers=("relay", "consumer")):
        row = {
            "id": uuid4(),
            "aggregatetype": "thing",
            "aggregateid": "thing-1",
            "type": "Moved",
            "topic": "moves",
            "key": "thing-1",
            "bucket": 0,
            "headers": f'{{"message-id":"{uuid4()}","type":"Moved","version":"1","source":"tests"}}',
            "payload": b'{"what":"stranger"}',
            "available_at": cqrs.engine.clock.now(),
            "created_at": cqrs.engine.clock.now(),
        }
        await cqrs.database.write(lambda c: c.execute(insert(cqrs.database.tables.outbox), row))
        await until_done(cqrs, ["stranger"])


# Where a handler begins.


async def test_a_new_handler_begins_at_the_present_and_a_new_projection_at_the_start(url: str, script: Script) -> None:
    before = build(url, script, worker=False)
    async with before.running(workers=()):
        await before.mediator.send(Open(what="old", times=3))

    cqrs = build(url, script, None, History, Present)
    async with cqrs.running(workers=("consumer",)):
        await cqrs.mediator.send(Open(what="new"))
        await until_done(cqrs, ["new"])
        await until_done(cqrs, ["opened old0", "opened old1", "opened old2", "opened new"], handler="history")
        await until_done(cqrs, ["new"], handler="present")


async def test_a_handler_that_begins_at_the_start_gets_all_of_history(url: str, script: Script) -> None:
    before = build(url, script, worker=False)
    async with before.running(workers=()):
        await before.mediator.send(Open(what="old", times=520))

    cqrs = build(url, script, from_start=True)
    async with cqrs.running(workers=("consumer",)):
        await until(lambda: len(script.seen) >= 520, 60)
    assert [what for what, _ in script.seen] == [f"old{number}" for number in range(520)]


async def test_a_higher_version_of_a_projection_is_built_anew(url: str, script: Script) -> None:
    first = build(url, script, None, History)
    async with first.running(workers=("consumer",)):
        await first.mediator.send(Open(what="a"))
        await until_done(first, ["opened a"], handler="history")

    class Newer(History, version=2, name="History"):
        pass

    second = build(url, script, None, Newer)
    async with second.running(workers=("consumer",)):
        await until_done(second, ["opened a", "opened a"], handler="history")


async def test_nothing_is_lost_between_the_first_process_and_the_one_that_reads(url: str, script: Script) -> None:
    """The web application of a service whose consumer runs elsewhere, and later."""
    web = build(url, script)
    async with web.running(workers=()):
        assert await position(web) == 0
        await web.mediator.send(Open(what="a", times=3))

    consumer = build(url, script)
    async with consumer.running(workers=("consumer",)):
        await until_done(consumer, ["a0", "a1", "a2"])


async def test_a_process_that_could_not_record_at_its_start_records_before_its_first_event(
    url: str, script: Script
) -> None:
    cqrs = build(url, script)
    await cqrs.open()
    try:
        checkpoints = cqrs.database.tables.checkpoints
        await cqrs.database.write(lambda c: c.execute(delete(checkpoints)))
        cqrs.engine._reading.starts.recorded = False
        await cqrs.mediator.send(Open(what="a"))
        assert await position(cqrs) == 0
        await cqrs.start_workers(("consumer",))
        await until_done(cqrs, ["a"])
    finally:
        await cqrs.stop_workers()
        await cqrs.close()


async def test_an_event_that_an_older_version_of_the_application_passes_over_is_not_lost(
    url: str, script: Script
) -> None:
    """The older one reads, and knows nothing of a binding with which the newer one has begun to record events."""

    class Overview(Projection, from_start=False):
        @on(Opened)
        async def opened(self, event: Opened, session: AsyncSession) -> None:
            await write(session, "overview", event.what)

    class Extended(Overview, from_start=False, name="Overview"):
        @on(Moved)
        async def moved(self, event: Moved, session: AsyncSession) -> None:
            await write(session, "overview", event.what)

    older, newer = build(url, script, None, Overview), build(url, script, None, Extended)
    async with older.running(workers=("consumer",)):
        await older.mediator.send(Move(what="before"))
        await older.mediator.send(Open(what="a"))
        await until_done(older, ["a"], handler="overview")
        async with newer.running(workers=()):
            await newer.mediator.send(Move(what="b", times=3))
            await newer.mediator.send(Open(what="c"))
            await until_done(newer, ["a", "c"], handler="overview")
    for _ in range(2):
        async with newer.running(workers=("consumer",)):
            await until_done(newer, ["a", "c", "b0", "b1", "b2"], handler="overview")
    async with newer.running(workers=("consumer",)):
        await newer.mediator.send(Move(what="d"))
        await until_done(newer, ["a", "c", "b0", "b1", "b2", "d"], handler="overview")


async def test_a_handler_goes_on_where_it_was(url: str, script: Script) -> None:
    for number in range(3):
        cqrs = build(url, script)
        async with cqrs.running(workers=("consumer",)):
            await cqrs.mediator.send(Open(what=f"a{number}"))
            await until_done(cqrs, [f"a{done}" for done in range(number + 1)])
    assert len(script.seen) == 3


# One process at a time.


async def test_of_two_processes_one_reads_and_the_other_takes_over(url: str, script: Script) -> None:
    first, second = build(url, script), build(url, script)
    async with second.running(workers=()):
        async with first.running(workers=("consumer",)):
            await first.mediator.send(Open(what="a", times=5))
            await until_done(first, [f"a{number}" for number in range(5)])
            await second.start_workers(("consumer",))
            await second.mediator.send(Open(what="b", times=5))
            await until_done(first, [f"{name}{number}" for name in "ab" for number in range(5)])
        await second.mediator.send(Open(what="c", times=5))
        await until_done(second, [f"{name}{number}" for name in "abc" for number in range(5)])
    assert len(script.seen) == 15


async def test_what_a_process_does_that_has_lost_its_lease_leaves_nothing(cqrs: CQRS, script: Script) -> None:
    """It was stopped in the middle of a handler, another one came, and it wakes up."""
    script.gate.clear()
    await cqrs.mediator.send(Open(what="a", times=2))
    async with asyncio.timeout(20):
        await script.entered.wait()
    table = cqrs.database.tables.leases
    stolen = {"owner": uuid4(), "epoch": table.c.epoch + 1}
    statement = update(table).where(table.c.name == "subscriptions:tests").values(**stolen)
    if cqrs.database.dialect == "sqlite":
        script.gate.set()  # its handler holds the only write lock, so that nobody comes in between
        await cqrs.database.write(lambda c: c.execute(statement))
    else:
        await cqrs.database.write(lambda c: c.execute(statement))
        script.gate.set()
        await asyncio.sleep(0.3)
        assert await done(cqrs) == []
    freed = {"owner": None, "epoch": table.c.epoch + 1}
    await cqrs.database.write(lambda c: c.execute(update(table).values(**freed)))

    await until_done(cqrs, ["a0", "a1"])


async def test_a_place_that_somebody_else_has_moved_is_taken_up_there(cqrs: CQRS, script: Script) -> None:
    await cqrs.mediator.send(Open(what="a"))
    await until_done(cqrs, ["a"])
    checkpoints = cqrs.database.tables.checkpoints
    back = {"position": 0, "message_id": None}
    await cqrs.database.write(
        lambda c: c.execute(update(checkpoints).where(checkpoints.c.projection == "worker").values(**back))
    )
    await cqrs.mediator.send(Open(what="b"))

    await until_done(cqrs, ["a", "b"])
    assert [what for what, _ in script.seen if what == "a"] == ["a"]


async def test_a_reader_stops_where_the_history_is_another_one(cqrs: CQRS, script: Script) -> None:
    await cqrs.mediator.send(Open(what="a", times=3))
    await until_done(cqrs, ["a0", "a1", "a2"])
    events, checkpoints = cqrs.database.tables.events, cqrs.database.tables.checkpoints
    async with no_workers(cqrs):
        last = (await positions_of(cqrs))[-1][0]
        await cqrs.database.write(lambda c: c.execute(delete(events).where(events.c.position == last)))

    await until(lambda: _consumer_is(cqrs, "restarting"))
    await cqrs.mediator.send(Open(what="b"))
    readiness = await cqrs.readiness()
    assert not readiness.ready
    assert len(script.seen) == 3

    await cqrs.database.write(lambda c: c.execute(delete(checkpoints)))
    await cqrs.mediator.send(Open(what="c"))
    await until(lambda: _consumer_is_well(cqrs), 40)


async def _consumer_is(cqrs: CQRS, status: str) -> bool:
    return any(check.name == "consumer" and check.detail == status for check in (await cqrs.readiness()).checks)


async def _consumer_is_well(cqrs: CQRS) -> bool:
    return (await position(cqrs)) > 3


# What people see.


async def test_readiness_tells_how_far_the_handlers_are(cqrs: CQRS, script: Script) -> None:
    await cqrs.mediator.send(Open(what="a"))
    await until_done(cqrs, ["a"])

    async def told() -> str:
        checks = {check.name: check for check in (await cqrs.readiness()).checks}
        assert checks["subscriptions"].ok
        return checks["subscriptions"].detail

    async def is_up_to_date() -> bool:
        return await told() == "up to date"

    await until(is_up_to_date)
    script.gate.clear()
    await cqrs.mediator.send(Open(what="b", times=4))
    await asyncio.sleep(0.1)
    assert await told() == "worker is 4 behind position 5"
    script.gate.set()
    await until(is_up_to_date)


async def test_an_application_without_durable_handlers_has_no_such_check(url: str, script: Script) -> None:
    cqrs = build(url, script, worker=False)
    async with cqrs.running():
        assert "subscriptions" not in {check.name for check in (await cqrs.readiness()).checks}


async def test_an_append_under_way_is_told_with_its_process(postgres_url: str, script: Script) -> None:
    cqrs = build(postgres_url, script)
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(upgrade)
    async with cqrs.running(workers=()), cqrs.database.engine.connect() as slow:
        await slow.execute(text("SELECT cqrs_take_floor(), nextval('cqrs_events_position_seq')"))
        await slow.execute(text("SELECT 'secret', 12345 FROM cqrs_events"))
        pid = (await slow.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await slow.execute(text("SELECT 'secret', 12345 FROM cqrs_events"))
        await asyncio.sleep(3.1)
        [check] = [check for check in (await cqrs.readiness()).checks if check.name == "subscriptions"]

    assert check.ok
    assert "held back at position 0 of 1 for 3 s" in check.detail
    assert f"process {pid} (idle in transaction): SELECT ?, ? FROM cqrs_events" in check.detail  # noqa: S608  # no statement
    assert "secret" not in check.detail


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT 1", "SELECT ?"),
        ("SELECT 'it''s', x FROM t1 WHERE y = $1", "SELECT ?, x FROM t1 WHERE y = $?"),
        ("SELECT 'unfinished", "SELECT ?"),
        ("SELECT $$body 'x'$$, $tag$ other $tag$", "SELECT ?, ?"),
        ("SELECT  a,\n b", "SELECT a, b"),
        ("SELECT " + "a" * 100, "SELECT " + "a" * 52 + "…"),
    ],
)
def test_a_statement_is_shown_without_its_values(query: str, shown: str) -> None:
    assert without_values(query) == shown


def test_a_prepared_transaction_is_told_as_such() -> None:
    holder = Holder(None, "prepared", "PREPARE TRANSACTION 'x'", 60.4, 5)
    told = Lag(Horizon(9, 5), {"a": 0, "b": 3}, holder).told()
    assert told == (
        "b is 3 behind position 5; held back at position 5 of 9 for 60 s by a prepared transaction (prepared): "
        "PREPARE TRANSACTION ?"
    )


def test_the_gauges_say_what_was_seen_last() -> None:
    registry = CollectorRegistry()
    holder = Holder(1, "active", "", 7.5, 5)
    SubscriptionGauges("shop", registry)(Lag(Horizon(9, 5), {"a": 0, "b": 3}, holder))
    SubscriptionGauges("other", registry)(Lag(Horizon(9, 9), {"a": 1}))

    def lag(service: str, consumer: str) -> float | None:
        return registry.get_sample_value("cqrs_subscription_lag", {"service": service, "consumer": consumer})

    def floor(service: str) -> float | None:
        return registry.get_sample_value("cqrs_oldest_append_seconds", {"service": service})

    assert (lag("shop", "a"), lag("shop", "b"), lag("other", "a")) == (0, 3, 1)
    assert (floor("shop"), floor("other")) == (7.5, 0)
