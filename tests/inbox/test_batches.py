"""Many messages of one handler in one transaction, on both databases: each effect once, whatever fails."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, event, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Event, Metadata, ReceivedMessage, Settings, UnitOfWork
from cqrs_fastapi.brokers.broker import OutgoingMessage, Place
from cqrs_fastapi.dead_letters import parked_keys
from cqrs_fastapi.dead_letters.parking import newest
from cqrs_fastapi.inbox import batches, dispatches
from cqrs_fastapi.inbox.batches import Batches
from cqrs_fastapi.inbox.dispatches import Dispatches
from cqrs_fastapi.inbox.pieces import EventPiece
from cqrs_fastapi.mediation.scope import current_scope
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

effects = Table("effects", MetaData(), Column("n", Integer, primary_key=True), Column("what", String))


class Came(Event, name="other.came", topic="elsewhere"):
    what: str


class Followed(Event):
    what: str


@dataclass
class Seen:
    """What the handler was given, what it is to do, and what stands in the database's log."""

    given: list[str] = field(default_factory=list)
    metadata: list[Metadata] = field(default_factory=list)
    received: list[ReceivedMessage] = field(default_factory=list)
    scopes: list[object] = field(default_factory=list)
    fails: Callable[[str], BaseException | None] = lambda _: None
    commits: int = 0


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def cqrs(database_url: str, seen: Seen) -> AsyncIterator[CQRS]:
    settings = Settings(
        database_url=database_url,
        service="tests",
        topic_partitions=1,
        consumer_keys=2,
        consumer_batch=20,
        retry_backoff="PT0.01S",
        handler_attempts=2,
    )
    cqrs = CQRS(settings=settings)

    @cqrs.on(Came, name="writer", effects="database")
    async def write(
        event: Came, session: AsyncSession, unit: UnitOfWork, metadata: Metadata, received: ReceivedMessage
    ) -> None:
        seen.given.append(event.what)
        seen.metadata.append(metadata)
        seen.received.append(received)
        seen.scopes.append(current_scope())
        await session.execute(insert(effects).values(what=event.what))
        unit.publish(Followed(what=event.what))
        if (error := seen.fails(event.what)) is not None:
            raise error

    cqrs.register(Followed)
    async with cqrs.database.engine.begin() as connection:
        if database_url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    async with cqrs.running(workers=("consumer",)):
        event.listen(cqrs.database.engine.sync_engine, "commit", lambda _: _count(seen))
        yield cqrs


def _count(seen: Seen) -> None:
    seen.commits += 1


def message(what: str, key: str, message_id: UUID | None = None) -> OutgoingMessage:
    one = message_id or uuid4()
    headers = {"message-id": str(one), "type": "other.came", "version": "1"}
    return OutgoingMessage(one, "elsewhere", key, f'{{"what":"{what}"}}'.encode(), headers)


async def put(cqrs: CQRS, messages: list[OutgoingMessage]) -> None:
    """Returns when all of them are settled."""
    publisher = await cqrs.broker.publisher()
    async with asyncio.timeout(60):
        await publisher.publish(messages)
    await publisher.close()


async def done(cqrs: CQRS) -> list[str]:
    query = select(effects.c.what).order_by(effects.c.n)
    return list(await cqrs.database.read(lambda c: c.execute(query).scalars().all()))


async def recorded(cqrs: CQRS) -> list[dict[str, object]]:
    events = cqrs.database.tables.events
    return [dict(row) for row in await cqrs.database.read(lambda c: c.execute(select(events)).mappings().all())]


async def test_every_message_has_its_effect_once_in_few_transactions(cqrs: CQRS, seen: Seen) -> None:
    before = seen.commits
    await put(cqrs, [message(f"{n}", f"key-{n % 10}") for n in range(100)])
    assert sorted(await done(cqrs), key=int) == [str(n) for n in range(100)]
    assert seen.commits - before < 60
    for key in range(10):
        mine = [int(what) for what in await done(cqrs) if int(what) % 10 == key]
        assert mine == sorted(mine)


async def test_each_message_of_a_batch_has_its_own_scope_metadata_and_consequences(cqrs: CQRS, seen: Seen) -> None:
    messages = [message(f"{n}", "k") for n in range(30)]
    await put(cqrs, messages)
    assert [one.message_id for one in seen.metadata] == [one.message_id for one in messages]
    assert [one.offset for one in seen.received] == list(range(30))
    assert {(one.topic, one.partition, one.key, one.attempt) for one in seen.received} == {("elsewhere", 0, b"k", 1)}
    assert len({id(scope) for scope in seen.scopes}) == 30
    causes = [row["metadata"] for row in await recorded(cqrs)]
    assert len(causes) == 30
    assert all(any(str(one.message_id) in str(cause) for cause in causes) for one in messages)


async def test_a_message_that_fails_costs_nobody_else_anything(cqrs: CQRS, seen: Seen) -> None:
    seen.fails = lambda what: RuntimeError("planned") if what == "bad" else None
    ordinary = [message(f"{n}", f"key-{n % 5}") for n in range(60)]
    await put(cqrs, [*ordinary[:30], message("bad", "key-bad"), *ordinary[30:]])
    assert sorted(await done(cqrs), key=int) == [str(n) for n in range(60)]
    letters = await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 10))
    assert [(one.consumer, one.payload, one.attempts) for one in letters] == [("writer", b'{"what":"bad"}', 2)]
    assert len(await recorded(cqrs)) == 60
    for key in range(5):
        mine = [int(what) for what in await done(cqrs) if int(what) % 5 == key]
        assert mine == sorted(mine)


async def test_what_fails_once_keeps_its_place_in_its_key(cqrs: CQRS, seen: Seen) -> None:
    failures = {"7": 3}

    def fails(what: str) -> BaseException | None:
        failures[what] = failures.get(what, 0) - 1
        return RuntimeError("planned") if failures[what] >= 0 else None

    seen.fails = fails
    await put(cqrs, [message(f"{n}", "k") for n in range(40)])
    assert await done(cqrs) == [str(n) for n in range(40)]


async def test_what_comes_again_has_no_second_effect(cqrs: CQRS) -> None:
    messages = [message(f"{n}", f"key-{n % 3}") for n in range(20)]
    await put(cqrs, [*messages, *messages])
    await put(cqrs, messages)
    assert sorted(await done(cqrs), key=int) == [str(n) for n in range(20)]


async def test_a_handler_that_ends_the_transaction_itself_is_left_to_run_alone(database_url: str) -> None:
    """What it has committed is not undone, as ever, so that one effect is there twice; none is missing."""
    cqrs = CQRS(settings=Settings(database_url=database_url, topic_partitions=1, consumer_keys=1))

    @cqrs.on(Came, name="writer", effects="database")
    async def write(event: Came, session: AsyncSession) -> None:
        await session.execute(insert(effects).values(what=event.what))
        await session.commit()

    async with cqrs.database.engine.begin() as connection:
        if database_url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    async with cqrs.running(workers=("consumer",)):
        await put(cqrs, [message(f"{n}", "k") for n in range(5)])
        assert set(await done(cqrs)) == {"0", "1", "2", "3", "4"}
        assert len(await done(cqrs)) <= 6


def spied(monkeypatch: pytest.MonkeyPatch) -> list[EventPiece]:
    """What is given to batches."""
    together: list[EventPiece] = []
    original = Batches._transaction

    async def spy(
        self: Batches, pieces: Sequence[EventPiece], stop: asyncio.Event, *, with_savepoints: bool
    ) -> Sequence[EventPiece]:
        together.extend(pieces)
        return await original(self, pieces, stop, with_savepoints=with_savepoints)

    monkeypatch.setattr(Batches, "_transaction", spy)
    return together


async def test_what_a_dead_process_had_taken_up_is_run_one_by_one(cqrs: CQRS, monkeypatch: pytest.MonkeyPatch) -> None:
    database, together = cqrs.database, spied(monkeypatch)
    dead = Dispatches(database, cqrs.container.clock(), "tests")
    monkeypatch.setattr(dispatches, "AHEAD", 9)
    assert await dead.begin(Place("elsewhere", 0), 0) == dispatches.NOBODY
    await put(cqrs, [message(f"{n}", f"key-{n}") for n in range(40)])
    assert together
    assert min(piece.message.offset for piece in together) == 10
    assert sorted(await done(cqrs), key=int) == [str(n) for n in range(40)]
    assert await database.read(lambda c: c.execute(select(database.tables.attempts)).all()) == []


async def test_an_error_at_the_commit_runs_them_one_by_one(cqrs: CQRS, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failures = batches.claim_all, 1

    def claim_all(*given: Any, **more: Any) -> None:
        nonlocal failures
        original(*given, **more)
        if failures:
            failures -= 1
            raise RuntimeError("planned, as a deferred constraint would be")

    monkeypatch.setattr(batches, "claim_all", claim_all)
    await put(cqrs, [message(f"{n}", f"key-{n % 5}") for n in range(40)])
    assert failures == 0
    assert sorted(await done(cqrs), key=int) == [str(n) for n in range(40)]


async def test_messages_of_a_closed_key_park_behind_it_and_the_others_share(
    cqrs: CQRS, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = spied(monkeypatch)
    seen.fails = lambda what: RuntimeError("planned") if what == "bad" else None
    await put(cqrs, [message("bad", "key-1")])
    together.clear()
    await put(cqrs, [message(f"{n}", f"key-{n % 3}") for n in range(30)])
    assert {piece.message.key for piece in together} == {b"key-0", b"key-2"}
    letters = await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 50))
    assert {one.key for one in letters} == {b"key-1"}
    assert len(letters) == 11
    assert sorted(await done(cqrs), key=int) == [str(n) for n in range(30) if n % 3 != 1]


async def test_a_key_that_another_closes_meanwhile_keeps_its_order(cqrs: CQRS, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was known when the messages were opened is old by then; the rows of the inbox find out."""
    tables, now = cqrs.database.tables, cqrs.container.clock().now()
    original = Batches._transaction

    async def closing(
        self: Batches, pieces: Sequence[EventPiece], stop: asyncio.Event, *, with_savepoints: bool
    ) -> Sequence[EventPiece]:
        await cqrs.database.write(
            lambda c: parked_keys.close(c, tables, "writer", "key-1", reason="by another", now=now)
        )
        return await original(self, pieces, stop, with_savepoints=with_savepoints)

    monkeypatch.setattr(Batches, "_transaction", closing)
    await put(cqrs, [message(f"{n}", f"key-{n % 3}") for n in range(30)])
    effects_of_it = [what for what in await done(cqrs) if int(what) % 3 == 1]
    letters = await cqrs.database.read(lambda c: newest(c, tables, 50))
    assert len(effects_of_it) + len(letters) == 10
    assert letters
    assert effects_of_it == [str(n) for n in range(1, 30, 3)][: len(effects_of_it)]


async def test_a_filter_and_a_validator_hold_in_a_batch(database_url: str) -> None:
    settings = Settings(
        database_url=database_url, service="tests", topic_partitions=1, consumer_keys=1, consumer_batch=20
    )
    cqrs = CQRS(settings=settings)

    def refuse(event: Came) -> None:
        if event.what == "13":
            raise ValueError("planned")

    @cqrs.on(Came, name="writer", effects="database", where=lambda event: int(event.what) % 2 == 1, validate=refuse)
    async def write(event: Came, session: AsyncSession) -> None:
        await session.execute(insert(effects).values(what=event.what))

    async with cqrs.database.engine.begin() as connection:
        if database_url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(effects.create)
    async with cqrs.running(workers=("consumer",)):
        await put(cqrs, [message(f"{n}", f"key-{n}") for n in range(40)])
        assert sorted(await done(cqrs), key=int) == [str(n) for n in range(1, 40, 2) if n != 13]
        letters = await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 50))
        assert [(one.payload, one.code) for one in letters] == [(b'{"what":"13"}', "refused_by_validator")]
        inbox = cqrs.database.tables.inbox
        rows = await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(inbox)).scalar_one())
        assert rows == 20


async def test_each_message_has_a_row_in_the_inbox_and_a_partition_one_for_all(cqrs: CQRS) -> None:
    inbox, taken_up = cqrs.database.tables.inbox, cqrs.database.tables.dispatches
    await put(cqrs, [message(f"{n}", f"key-{n % 5}") for n in range(25)])
    rows = await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(inbox)).scalar_one())
    assert rows == 25
    left = await cqrs.database.read(lambda c: c.execute(select(taken_up.c.consumer, taken_up.c.through)).all())
    assert [row.consumer for row in left] == ["tests"]
    assert left[0].through >= dispatches.AHEAD
