"""One transaction per message, through the mediator, on both databases."""

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    NO_STREAM,
    Aggregate,
    Command,
    ConcurrencyError,
    DomainError,
    Event,
    EventStore,
    Metadata,
    NotFoundError,
    Query,
    Repository,
    RequestMediator,
    Settings,
    UnitOfWork,
    applies,
)
from cqrs_fastapi.domain.repository import FEW
from cqrs_fastapi.errors import MessageTooLargeError, ReadOnlyError, UnknownMessageError
from cqrs_fastapi.messages.metadata import Origin, enter, leave
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

notes = Table("notes", MetaData(), Column("id", String, primary_key=True), Column("n", Integer))


class Deposited(Event, topic="bank.accounts"):
    amount: int


class Renamed(Event):
    name: str


class Audited(Event):
    what: str


class RefusedError(DomainError):
    code = "refused"


class Account(Aggregate):
    balance: int = 0
    name: str = ""

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies
    def on_renamed(self, event: Renamed) -> None:
        self.name = event.name


class Deposit(Command[int]):
    account: UUID
    amount: int


class Rename(Command[str]):
    account: UUID
    name: str
    expected: int | None = None


class Transfer(Command[None]):
    source: UUID
    target: UUID
    amount: int
    swallow: bool = False


class Note(Command[None]):
    id: str
    account: UUID
    fail: bool = False


class GetBalance(Query[int]):
    account: UUID


class PeekAndWrite(Query[int]):
    account: UUID


class PeekAndSend(Query[int]):
    account: UUID


class Publish(Command[None]):
    what: str


class Stray(Event):
    pass


def build(url: str, **settings: object) -> CQRS:  # noqa: C901  # one function a handler
    cqrs = CQRS(settings=Settings(database_url=url, **settings))  # type: ignore[arg-type]  # fields by name

    @cqrs.handles(Deposit)
    async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
        account = await accounts.get_or_new(command.account)
        account.record(Deposited(amount=command.amount))
        if command.amount < 0:
            raise RefusedError("no negative amounts")
        return account.balance

    @cqrs.handles(Rename)
    async def rename(command: Rename, accounts: Repository[Account]) -> str:
        account = await accounts.get(command.account, expected_version=command.expected)
        account.record(Renamed(name=command.name))
        return account.name

    @cqrs.handles(Transfer)
    async def transfer(command: Transfer, mediator: RequestMediator, accounts: Repository[Account]) -> None:
        await mediator.send(Deposit(account=command.target, amount=command.amount))
        loaded = await accounts.get(command.target)
        assert loaded.balance >= command.amount  # the nested command's state is seen before the commit
        try:
            await mediator.send(Deposit(account=command.source, amount=-command.amount))
        except RefusedError:
            if not command.swallow:
                raise

    @cqrs.handles(Note)
    async def note(command: Note, session: AsyncSession, accounts: Repository[Account]) -> None:
        account = await accounts.get_or_new(command.account)
        account.record(Renamed(name=command.id))
        await session.execute(insert(notes).values(id=command.id, n=1))
        if command.fail:
            raise RefusedError("after the insert")

    @cqrs.handles(GetBalance)
    async def balance(query: GetBalance, accounts: Repository[Account]) -> int:
        return (await accounts.get(query.account)).balance

    @cqrs.handles(PeekAndWrite)
    async def peek_and_write(query: PeekAndWrite, accounts: Repository[Account]) -> int:
        (await accounts.get_or_new(query.account)).record(Deposited(amount=1))
        return 1

    @cqrs.handles(PeekAndSend)
    async def peek_and_send(query: PeekAndSend, mediator: RequestMediator) -> int:
        return await mediator.send(Deposit(account=query.account, amount=1))

    @cqrs.handles(Publish)
    async def publish(command: Publish, unit: UnitOfWork) -> None:
        unit.publish(Stray() if command.what == "stray" else Audited(what=command.what))

    cqrs.register(Audited)
    return cqrs


@pytest.fixture
async def cqrs(database_url: str) -> AsyncIterator[CQRS]:
    cqrs = build(database_url)
    if database_url.startswith("postgresql"):
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(notes.create)
    async with cqrs.running(workers=()):
        yield cqrs


async def stored(cqrs: CQRS) -> list[tuple[str, int, str]]:
    events = cqrs.database.tables.events
    query = select(events.c.stream, events.c.version, events.c.type).order_by(events.c.position)
    return [(row.stream, row.version, row.type) for row in await cqrs.database.read(lambda c: c.execute(query).all())]


async def count(cqrs: CQRS, table: Table) -> int:
    return await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one())


async def test_send_returns_after_events_and_outbox_rows_are_committed(cqrs: CQRS) -> None:
    account = uuid4()

    assert await cqrs.mediator.send(Deposit(account=account, amount=3)) == 3
    assert await cqrs.mediator.send(Deposit(account=account, amount=4)) == 7

    assert await cqrs.mediator.send(GetBalance(account=account)) == 7
    assert await stored(cqrs) == [(f"Account-{account}", 1, "Deposited"), (f"Account-{account}", 2, "Deposited")]
    outbox = cqrs.database.tables.outbox
    rows = await cqrs.database.read(lambda c: c.execute(select(outbox).order_by(outbox.c.position)).all())
    assert [(row.topic, row.key, row.payload) for row in rows] == [
        ("bank.accounts", f"Account-{account}", b'{"amount":3}'),
        ("bank.accounts", f"Account-{account}", b'{"amount":4}'),
    ]


async def test_an_event_without_topic_stays_in_the_store(cqrs: CQRS) -> None:
    account = uuid4()
    await cqrs.mediator.send(Deposit(account=account, amount=1))
    await cqrs.mediator.send(Rename(account=account, name="x"))

    assert len(await stored(cqrs)) == 2
    assert await count(cqrs, cqrs.database.tables.outbox) == 1


async def test_a_refused_command_leaves_nothing(cqrs: CQRS) -> None:
    with pytest.raises(RefusedError):
        await cqrs.mediator.send(Deposit(account=uuid4(), amount=-1))

    assert await stored(cqrs) == []
    assert await count(cqrs, cqrs.database.tables.outbox) == 0


async def test_nested_sends_are_committed_together(cqrs: CQRS) -> None:
    source, target = uuid4(), uuid4()
    with pytest.raises(RefusedError):
        await cqrs.mediator.send(Transfer(source=source, target=target, amount=5))

    assert await stored(cqrs) == []


async def test_an_error_of_a_nested_send_rolls_back_even_if_it_is_caught(cqrs: CQRS) -> None:
    with pytest.raises(RefusedError):
        await cqrs.mediator.send(Transfer(source=uuid4(), target=uuid4(), amount=5, swallow=True))

    assert await stored(cqrs) == []


async def test_rows_of_the_session_and_events_are_one_transaction(cqrs: CQRS) -> None:
    account = uuid4()
    await cqrs.mediator.send(Note(id="a", account=account))
    with pytest.raises(RefusedError):
        await cqrs.mediator.send(Note(id="b", account=account, fail=True))

    assert await count(cqrs, notes) == 1
    assert await stored(cqrs) == [(f"Account-{account}", 1, "Renamed")]


async def test_a_conflict_rolls_the_session_s_rows_back_and_the_decision_is_made_again(cqrs: CQRS) -> None:
    account = uuid4()
    sends = (cqrs.mediator.send(Note(id=f"n{number}", account=account)) for number in range(4))
    await asyncio.gather(*sends)

    assert await count(cqrs, notes) == 4
    assert [version for _, version, _ in await stored(cqrs)] == [1, 2, 3, 4]


async def test_concurrent_commands_on_one_aggregate_all_count(cqrs: CQRS) -> None:
    account = uuid4()
    await asyncio.gather(*(cqrs.mediator.send(Deposit(account=account, amount=1)) for _ in range(8)))

    assert await cqrs.mediator.send(GetBalance(account=account)) == 8


async def test_an_expected_version_of_the_caller_is_not_retried(cqrs: CQRS) -> None:
    account = uuid4()
    await cqrs.mediator.send(Deposit(account=account, amount=1))

    assert await cqrs.mediator.send(Rename(account=account, name="x", expected=1)) == "x"
    with pytest.raises(ConcurrencyError, match="expected at version 1 and is at version 2"):
        await cqrs.mediator.send(Rename(account=account, name="y", expected=1))


async def test_an_aggregate_without_events_is_not_found(cqrs: CQRS) -> None:
    with pytest.raises(NotFoundError, match=r"Account .* does not exist"):
        await cqrs.mediator.send(GetBalance(account=uuid4()))


async def test_a_query_that_records_is_an_error_and_leaves_nothing(cqrs: CQRS) -> None:
    with pytest.raises(ReadOnlyError, match="recorded Deposited"):
        await cqrs.mediator.send(PeekAndWrite(account=uuid4()))

    assert await stored(cqrs) == []


async def test_a_query_that_sends_a_command_is_an_error(cqrs: CQRS) -> None:
    with pytest.raises(ReadOnlyError, match="sent the command Deposit"):
        await cqrs.mediator.send(PeekAndSend(account=uuid4()))

    assert await stored(cqrs) == []


async def test_a_published_event_without_topic_gets_a_stream_of_its_own(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Publish(what="x"))

    [(stream, version, name)] = await stored(cqrs)
    assert (stream.partition("-")[0], version, name) == ("Audited", 1, "Audited")


async def test_publishing_an_unregistered_event_is_an_error_at_once(cqrs: CQRS) -> None:
    with pytest.raises(UnknownMessageError, match="Stray"):
        await cqrs.mediator.send(Publish(what="stray"))


async def test_an_event_over_the_limit_is_refused_before_anything_is_written(database_url: str) -> None:
    cqrs = build(database_url, max_event_bytes=100)
    if database_url.startswith("postgresql"):
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        with pytest.raises(MessageTooLargeError, match=r"Audited has .* the limit is 100"):
            await cqrs.mediator.send(Publish(what="x" * 200))

        assert await stored(cqrs) == []


async def test_a_caller_that_goes_away_does_not_break_the_commit(cqrs: CQRS) -> None:
    for _ in range(20):
        caller = asyncio.create_task(cqrs.mediator.send(Note(id=uuid4().hex, account=uuid4())))
        await asyncio.sleep(0.001)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert await cqrs.engine.kernel.drain(10) == 0

    assert await count(cqrs, notes) == 20
    assert len(await stored(cqrs)) == 20


async def test_a_scope_is_one_unit_of_work_for_several_requests(cqrs: CQRS) -> None:
    one, two = uuid4(), uuid4()
    async with cqrs.scope() as scope:
        await scope.send(Deposit(account=one, amount=1))
        await scope.send(Deposit(account=two, amount=1))
        assert await stored(cqrs) == []

    assert len(await stored(cqrs)) == 2
    with pytest.raises(RefusedError):
        async with cqrs.scope() as scope:
            await scope.send(Deposit(account=one, amount=1))
            raise RefusedError("changed my mind")
    assert len(await stored(cqrs)) == 2


async def test_a_scope_joins_a_session_and_leaves_the_commit_to_its_owner(cqrs: CQRS) -> None:
    async with cqrs.database.session() as session:
        async with cqrs.scope(session=session) as scope:
            await scope.send(Note(id="joined", account=uuid4()))
        await session.rollback()
    assert await count(cqrs, notes) == 0

    async with cqrs.database.session() as session:
        async with cqrs.scope(session=session) as scope:
            await scope.send(Note(id="joined", account=uuid4()))
        await session.commit()
    assert await count(cqrs, notes) == 1
    assert len(await stored(cqrs)) == 1


async def test_the_event_store_is_asked_for_by_its_type(database_url: str) -> None:
    cqrs = build(database_url)

    class Append(Command[int]):
        pass

    @cqrs.handles(Append)
    async def handle(command: Append, store: EventStore) -> int:
        await store.append("things-1", [Audited(what="a"), Audited(what="b")], NO_STREAM)
        return len([one async for one in store.read("things-1")])

    if database_url.startswith("postgresql"):
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        assert await cqrs.mediator.send(Append()) == 0
        with pytest.raises(ConcurrencyError):
            await cqrs.mediator.send(Append())
        assert [version for _, version, _ in await stored(cqrs)] == [1, 2]


async def test_metadata_tells_the_cause_of_each_event(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Deposit(account=uuid4(), amount=1))

    outbox = cqrs.database.tables.outbox
    [row] = await cqrs.database.read(lambda c: c.execute(select(outbox.c.headers)).all())
    assert '"causation-id"' in row.headers
    assert '"correlation-id"' in row.headers


async def test_each_tenant_has_streams_of_its_own(cqrs: CQRS) -> None:
    account = uuid4()
    for tenant, amount in (("red", 1), ("blue", 10), ("red", 2)):
        metadata = Metadata(message_id=uuid4(), correlation_id="c", time=datetime.now(UTC), tenant=tenant)
        token = enter(Origin(metadata))
        try:
            balance = await cqrs.mediator.send(Deposit(account=account, amount=amount))
        finally:
            leave(token)
        assert balance == {1: 1, 10: 10, 2: 3}[amount]

    events = cqrs.database.tables.events
    query = select(events.c.tenant, events.c.version).order_by(events.c.position)
    found = await cqrs.database.read(lambda c: [tuple(row) for row in c.execute(query)])
    assert found == [("red", 1), ("blue", 1), ("red", 2)]


@pytest.mark.parametrize("length", [FEW - 1, FEW, FEW + 1, 2 * FEW + 5])
async def test_a_stream_of_any_length_is_folded_whole(cqrs: CQRS, length: int) -> None:
    account = uuid4()
    async with cqrs.scope() as scope:
        for _ in range(length):
            await scope.send(Deposit(account=account, amount=1))

    assert await cqrs.mediator.send(GetBalance(account=account)) == length
    assert await cqrs.mediator.send(Deposit(account=account, amount=1)) == length + 1


async def test_a_unit_that_has_ended_leaves_nothing_to_the_garbage_collector(cqrs: CQRS) -> None:
    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Deposit(account=uuid4(), amount=1))
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await cqrs.mediator.send(Deposit(account=uuid4(), amount=1))
            gc.collect()
            left = {type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("cqrs_fastapi")}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not left
