"""A part of a unit of work that fails by itself, through the mediator, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    DomainError,
    Event,
    EventStore,
    NotFoundError,
    Query,
    Repository,
    Request,
    RequestMediator,
    Settings,
    UnitOfWork,
    applies,
    command,
    matching,
    state,
)
from cqrs_fastapi.errors import ReadOnlyError
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.unit_of_work.savepoint import KEPT

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True)


notes = Note.__table__


class Deposited(Event):
    amount: int


class Enrolled(Event, tags=("course",)):
    course: str


class Audited(Event):
    what: str


class RefusedError(DomainError):
    code = "refused"


class Account(Aggregate):
    amounts: list[int] = state(list)

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.amounts.append(event.amount)


class Deposit(Command[int]):
    account: UUID
    amount: int
    refuse: bool = False


class ReadAmounts(Query[list[int]]):
    account: UUID


class Peek(Query[None]):
    pass


@dataclass
class Tools:
    """What the handler of `Do` may use; the tests say how."""

    accounts: Repository[Account]
    unit: UnitOfWork
    mediator: RequestMediator
    store: EventStore


@command
@dataclass(frozen=True)
class Do(Request[object]):
    """Runs a function of the test as the body of a handler that asks for no session."""

    body: Callable[[Tools], Awaitable[object]]


@command
@dataclass(frozen=True)
class DoWithSession(Request[object]):
    body: Callable[[Tools, AsyncSession], Awaitable[object]]


class Write(Command[None]):
    """A nested command that is the first to ask for a session."""

    note: str
    refuse: bool = False


class KeyedDo(Command[int]):
    """As `Do`, and it can be kept: the body is one of `bodies`."""

    note: str


reactions: list[int] = []
bodies: dict[str, Callable[[Tools], Awaitable[object]]] = {}


def build(url: str) -> CQRS:  # noqa: C901  # one function a handler
    cqrs = CQRS(settings=Settings(database_url=url))
    cqrs.register(Audited)
    cqrs.register(Enrolled)

    @cqrs.handles(Deposit)
    async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
        account = await accounts.get_or_new(command.account)
        account.record(Deposited(amount=command.amount))
        if command.refuse:
            raise RefusedError("the account is closed")
        return sum(account.amounts)

    @cqrs.handles(ReadAmounts)
    async def read_amounts(query: ReadAmounts, accounts: Repository[Account]) -> list[int]:
        return (await accounts.get_or_new(query.account)).amounts

    @cqrs.handles(Peek)
    async def peek(query: Peek, unit: UnitOfWork) -> None:
        async with unit.savepoint():
            pass

    @cqrs.handles(Write)
    async def write(command: Write, session: AsyncSession) -> None:
        await session.execute(insert(notes).values(id=command.note))
        if command.refuse:
            raise RefusedError("no more notes")

    @cqrs.handles(Do)
    async def do(
        request: Do, accounts: Repository[Account], unit: UnitOfWork, mediator: RequestMediator, store: EventStore
    ) -> object:
        return await request.body(Tools(accounts, unit, mediator, store))

    @cqrs.handles(KeyedDo)
    async def keyed_do(request: KeyedDo, mediator: RequestMediator) -> int:
        answer = await mediator.send(Do(bodies[request.note]))
        assert isinstance(answer, int)
        return answer

    @cqrs.handles(DoWithSession)
    async def do_with_session(  # noqa: PLR0917  # injected by type
        request: DoWithSession,
        accounts: Repository[Account],
        unit: UnitOfWork,
        mediator: RequestMediator,
        store: EventStore,
        session: AsyncSession,
    ) -> object:
        return await request.body(Tools(accounts, unit, mediator, store), session)

    @cqrs.on(Deposited, when="in_transaction")
    async def react(event: Deposited) -> None:
        reactions.append(event.amount)

    return cqrs


@pytest.fixture
async def cqrs(database_url: str) -> AsyncIterator[CQRS]:
    reactions.clear()
    cqrs = build(database_url)
    engine = cqrs.container.database().engine
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
            await connection.run_sync(Base.metadata.create_all)
    async with cqrs.running(workers=()):
        if engine.dialect.name == "sqlite":
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        yield cqrs


async def stored(cqrs: CQRS) -> list[str]:
    """The events of the store, in the order of their positions."""
    events = cqrs.container.database().tables.events
    rows = await cqrs.container.database().read(
        lambda connection: connection.execute(select(events.c.type, events.c.data).order_by(events.c.position)).all()
    )
    return [f"{row.type} {row.data}" for row in rows]


async def written(cqrs: CQRS) -> list[str]:
    return list(
        await cqrs.container.database().read(
            lambda connection: connection.execute(select(notes.c.id).order_by(notes.c.id)).scalars().all()
        )
    )


async def test_an_error_that_leaves_the_block_undoes_what_was_recorded_inside_and_nothing_else(cqrs: CQRS) -> None:
    mine = uuid4()

    async def body(do: Tools) -> object:
        account = await do.accounts.get_or_new(mine)
        account.record(Deposited(amount=1))
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                account.record(Deposited(amount=2))
                do.unit.publish(Audited(what="inside"))
                raise RefusedError
        assert account.amounts == [1]
        assert await do.accounts.get(mine) is account
        account.record(Deposited(amount=3))
        return account.amounts

    assert await cqrs.mediator.send(Do(body)) == [1, 3]
    assert await stored(cqrs) == ['Deposited {"amount":1}', 'Deposited {"amount":3}']
    assert reactions == [1, 3]


async def test_a_block_without_an_error_is_committed_with_the_unit(cqrs: CQRS) -> None:
    mine = uuid4()

    async def body(do: Tools, session: AsyncSession) -> object:
        await session.execute(insert(notes).values(id="before"))
        async with do.unit.savepoint():
            (await do.accounts.get_or_new(mine)).record(Deposited(amount=2))
            await session.execute(insert(notes).values(id="inside"))
            do.unit.publish(Audited(what="inside"))
        return None

    await cqrs.mediator.send(DoWithSession(body))
    assert await stored(cqrs) == ['Deposited {"amount":2}', 'Audited {"what":"inside"}']
    assert await written(cqrs) == ["before", "inside"]


async def test_a_block_is_undone_with_its_unit(cqrs: CQRS) -> None:
    async def body(do: Tools, session: AsyncSession) -> object:
        async with do.unit.savepoint():
            (await do.accounts.get_or_new(uuid4())).record(Deposited(amount=2))
            await session.execute(insert(notes).values(id="inside"))
        raise RefusedError

    with pytest.raises(RefusedError):
        await cqrs.mediator.send(DoWithSession(body))
    assert (await stored(cqrs), await written(cqrs)) == ([], [])


async def test_what_the_session_wrote_inside_is_undone_and_what_it_wrote_before_and_after_is_kept(cqrs: CQRS) -> None:
    async def body(do: Tools, session: AsyncSession) -> object:
        session.add(Note(id="before"))
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                session.add(Note(id="added"))
                await session.execute(insert(notes).values(id="executed"))
                raise RefusedError
        session.add(Note(id="later"))
        return None

    await cqrs.mediator.send(DoWithSession(body))
    assert await written(cqrs) == ["before", "later"]


async def test_a_session_that_is_first_used_inside_is_undone_as_a_whole(cqrs: CQRS) -> None:
    async def body(do: Tools, session: AsyncSession) -> object:
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                await session.execute(insert(notes).values(id="inside"))
                raise RefusedError
        await session.execute(insert(notes).values(id="later"))
        return None

    await cqrs.mediator.send(DoWithSession(body))
    assert await written(cqrs) == ["later"]


async def test_a_session_that_only_a_nested_message_asks_for_is_undone_too(cqrs: CQRS) -> None:
    async def body(do: Tools) -> object:
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                await do.mediator.send(Write(note="inside", refuse=True))
        await do.mediator.send(Write(note="later"))
        return None

    await cqrs.mediator.send(Do(body))
    assert await written(cqrs) == ["later"]


async def test_a_statement_that_fails_inside_leaves_the_transaction_usable(cqrs: CQRS) -> None:
    async def body(do: Tools, session: AsyncSession) -> object:
        await session.execute(insert(notes).values(id="before"))
        with pytest.raises(IntegrityError):
            async with do.unit.savepoint():
                await session.execute(insert(notes).values(id="before"))
        with pytest.raises(IntegrityError):
            async with do.unit.savepoint():
                session.add(Note(id="before"))
                await session.flush()
        await session.execute(insert(notes).values(id="later"))
        (await do.accounts.get_or_new(uuid4())).record(Deposited(amount=1))
        return None

    await cqrs.mediator.send(DoWithSession(body))
    assert await written(cqrs) == ["before", "later"]
    assert await stored(cqrs) == ['Deposited {"amount":1}']


async def test_a_flush_that_fails_at_the_end_of_the_block_undoes_the_block(cqrs: CQRS) -> None:
    mine = uuid4()

    async def body(do: Tools, session: AsyncSession) -> object:
        await session.execute(insert(notes).values(id="before"))
        account = await do.accounts.get_or_new(mine)
        with pytest.raises(IntegrityError):
            async with do.unit.savepoint():
                account.record(Deposited(amount=1))
                session.add(Note(id="before"))
        return account.amounts

    assert await cqrs.mediator.send(DoWithSession(body)) == []
    assert (await stored(cqrs), await written(cqrs)) == ([], ["before"])


async def test_a_nested_message_that_fails_inside_does_not_hold_back_the_commit(cqrs: CQRS) -> None:
    mine, other = uuid4(), uuid4()

    async def body(do: Tools) -> object:
        await do.mediator.send(Deposit(account=mine, amount=1))
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                await do.mediator.send(Deposit(account=mine, amount=2))
                await do.mediator.send(Deposit(account=other, amount=3, refuse=True))
        return await do.mediator.send(Deposit(account=mine, amount=4))

    assert await cqrs.mediator.send(Do(body)) == 5
    assert await cqrs.mediator.send(ReadAmounts(account=mine)) == [1, 4]
    assert await cqrs.mediator.send(ReadAmounts(account=other)) == []
    assert reactions == [1, 4]


async def test_a_nested_message_that_failed_before_the_block_holds_back_the_commit_still(cqrs: CQRS) -> None:
    async def body(do: Tools) -> object:
        with pytest.raises(RefusedError):
            await do.mediator.send(Deposit(account=uuid4(), amount=1, refuse=True))
        with pytest.raises(KeyError):
            async with do.unit.savepoint():
                raise KeyError
        return None

    with pytest.raises(RefusedError):
        await cqrs.mediator.send(Do(body))


async def test_a_nested_message_whose_error_is_caught_inside_the_block_holds_back_the_commit(cqrs: CQRS) -> None:
    async def body(do: Tools) -> object:
        async with do.unit.savepoint():
            with pytest.raises(RefusedError):
                await do.mediator.send(Deposit(account=uuid4(), amount=1, refuse=True))
        return None

    with pytest.raises(RefusedError):
        await cqrs.mediator.send(Do(body))
    assert await stored(cqrs) == []


async def test_the_inner_of_two_blocks_is_undone_alone_and_the_outer_one_with_the_inner(cqrs: CQRS) -> None:
    mine = uuid4()

    async def body(do: Tools, session: AsyncSession) -> object:
        await session.execute(insert(notes).values(id="0"))
        account = await do.accounts.get_or_new(mine)
        async with do.unit.savepoint():
            account.record(Deposited(amount=1))
            await session.execute(insert(notes).values(id="1"))
            with pytest.raises(RefusedError):
                async with do.unit.savepoint():
                    account.record(Deposited(amount=2))
                    await session.execute(insert(notes).values(id="2"))
                    raise RefusedError
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                account.record(Deposited(amount=3))
                async with do.unit.savepoint():
                    account.record(Deposited(amount=4))
                    await session.execute(insert(notes).values(id="4"))
                raise RefusedError
        return account.amounts

    assert await cqrs.mediator.send(DoWithSession(body)) == [1]
    assert await written(cqrs) == ["0", "1"]


async def test_an_aggregate_that_was_first_loaded_inside_is_loaded_anew(cqrs: CQRS) -> None:
    mine, added = uuid4(), Account(uuid4())
    await cqrs.mediator.send(Deposit(account=mine, amount=1))

    async def body(do: Tools) -> object:
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                first = await do.accounts.get(mine)
                first.record(Deposited(amount=2))
                added.record(Deposited(amount=9))
                do.accounts.add(added)
                raise RefusedError
        again = await do.accounts.get(mine)
        assert again is not first
        with pytest.raises(NotFoundError):
            await do.accounts.get(added.id)
        again.record(Deposited(amount=3))
        return again.amounts

    assert await cqrs.mediator.send(Do(body)) == [1, 3]


async def test_what_an_unloaded_aggregate_records_afterwards_is_not_lost_without_a_word(cqrs: CQRS) -> None:
    mine = uuid4()

    async def body(do: Tools) -> object:
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                account = await do.accounts.get_or_new(mine)
                raise RefusedError
        account.record(Deposited(amount=2))
        return None

    with pytest.raises(RuntimeError, match=r"was loaded in a savepoint that was undone, and recorded Deposited"):
        await cqrs.mediator.send(Do(body))
    assert await stored(cqrs) == []


async def test_appends_and_the_condition_of_a_decision_inside_are_undone(cqrs: CQRS) -> None:
    async def body(do: Tools) -> object:
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                found = await do.store.decide(matching(Enrolled, course="one"))
                await do.store.append("course-1", [Enrolled(course="one")], condition=found.condition)
                raise RefusedError
        other = await do.store.decide(matching(Enrolled, course="two"))  # a unit has one condition, and this is it
        await do.store.append("course-2", [Enrolled(course="two")], condition=other.condition)
        return None

    await cqrs.mediator.send(Do(body))
    assert await stored(cqrs) == ['Enrolled {"course":"two"}']


async def test_work_that_was_joined_inside_is_not_done(cqrs: CQRS) -> None:
    async def body(do: Tools) -> object:
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                do.unit.join(lambda connection: connection.execute(insert(notes).values(id="inside")))
                raise RefusedError
        do.unit.join(lambda connection: connection.execute(insert(notes).values(id="later")))
        return None

    await cqrs.mediator.send(Do(body))
    assert await written(cqrs) == ["later"]


async def test_the_answer_of_a_command_with_a_key_is_remembered_though_a_block_of_it_was_undone(cqrs: CQRS) -> None:
    """The key is the outermost command's; a nested one has none, inside of a block as outside."""
    calls = []

    async def body(do: Tools) -> object:
        calls.append(1)
        with pytest.raises(TypeError, match="covers what its handler sends"):
            async with do.unit.savepoint():
                await do.mediator.send(Deposit(account=uuid4(), amount=1), idempotency_key="inner")
        with pytest.raises(RefusedError):
            async with do.unit.savepoint():
                await do.mediator.send(Deposit(account=uuid4(), amount=1, refuse=True))
        return len(calls)

    bodies["once"] = body
    assert await cqrs.mediator.send(KeyedDo(note="once"), idempotency_key="outer") == 1
    assert await cqrs.mediator.send(KeyedDo(note="once"), idempotency_key="outer") == 1
    assert len(calls) == 1


async def test_time_that_is_over_inside_undoes_the_block_like_any_error(cqrs: CQRS) -> None:
    mine = uuid4()

    async def body(do: Tools, session: AsyncSession) -> object:
        await session.execute(insert(notes).values(id="before"))
        account = await do.accounts.get_or_new(mine)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit, do.unit.savepoint():
                account.record(Deposited(amount=1))
                await session.execute(insert(notes).values(id="inside"))
                limit.reschedule(asyncio.get_running_loop().time())
                await asyncio.Event().wait()
        account.record(Deposited(amount=2))
        return account.amounts

    assert await cqrs.mediator.send(DoWithSession(body)) == [2]
    assert await written(cqrs) == ["before"]


async def test_a_session_that_the_handler_rolled_back_inside_cannot_be_committed(cqrs: CQRS) -> None:
    async def body(do: Tools, session: AsyncSession) -> object:
        await session.execute(insert(notes).values(id="before"))
        with pytest.raises(Exception, match="closed"):
            async with do.unit.savepoint():
                await session.rollback()
        return None

    with pytest.raises(Exception, match="closed"):
        await cqrs.mediator.send(DoWithSession(body))
    assert await written(cqrs) == []


async def test_overlapping_blocks_are_refused(cqrs: CQRS) -> None:
    async def body(do: Tools) -> object:
        one, two = do.unit.savepoint(), do.unit.savepoint()
        await one.__aenter__()
        await two.__aenter__()
        with pytest.raises(RuntimeError, match="overlap"):
            await one.__aexit__(None, None, None)
        return None

    with pytest.raises(RuntimeError, match="overlap"):
        await cqrs.mediator.send(Do(body))


async def test_a_query_has_no_savepoint(cqrs: CQRS) -> None:
    with pytest.raises(ReadOnlyError, match="leave it out"):
        await cqrs.mediator.send(Peek())


async def test_a_session_that_was_handed_in_keeps_what_its_owner_wrote_before(cqrs: CQRS) -> None:
    async with cqrs.container.database().session() as session:
        await session.execute(insert(notes).values(id="owner"))
        async with cqrs.scope(session=session) as scope:
            unit = scope.unit_of_work
            assert isinstance(unit, UnitOfWork)
            with pytest.raises(RefusedError):
                async with unit.savepoint():
                    await scope.send(Write(note="inside", refuse=True))
        await session.commit()
    assert await written(cqrs) == ["owner"]


async def test_a_state_that_cannot_be_copied_is_refused_with_the_reason(cqrs: CQRS) -> None:
    async def body(do: Tools) -> object:
        account = await do.accounts.get_or_new(uuid4())
        account.amounts = (number for number in (1, 2))  # type: ignore[assignment]  # the fault under test
        async with do.unit.savepoint():
            pass
        return None

    with pytest.raises(TypeError, match="cannot be copied for a savepoint"):
        await cqrs.mediator.send(Do(body))


CONSTANT = {
    "_disclosed",
    "_kernel",
    "_read_only",
    "_savepoints",
    "_services",
    "_session",
    "_session_is_ours",
    "_undone",
}
"""What a block does not change, and what the savepoints themselves keep."""


def test_every_attribute_of_a_unit_of_work_is_kept_or_known_not_to_change() -> None:
    assert set(UnitOfWork.__slots__) == {*KEPT, *CONSTANT}
