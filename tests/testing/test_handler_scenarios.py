"""The kit for handlers, with no database, broker or application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    Aggregate,
    Clock,
    Command,
    ConcurrencyError,
    DomainError,
    Event,
    EventHandler,
    EventMediator,
    EventStore,
    Metadata,
    NotFoundError,
    Query,
    Ref,
    Repository,
    RequestHandler,
    RequestMediator,
    StreamRequest,
    UnitOfWork,
    applies,
)
from cqrs_fastapi.errors import ReadOnlyError, RegistrationError
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.testing import scenario
from cqrs_fastapi.testing.stage import OutOfReachError

pytestmark = pytest.mark.anyio

ADA, BOB = UUID(int=1), UUID(int=2)


class Deposited(Event):
    amount: int


class Closed(Event):
    pass


class Announced(Event):
    what: str


class ClosedError(DomainError):
    code = "closed"


class Account(Aggregate):
    balance: int = 0
    is_closed: bool = False

    def deposit(self, amount: int) -> None:
        if self.is_closed:
            raise ClosedError("the account is closed")
        self.record(Deposited(amount=amount))

    def close(self) -> None:
        if not self.is_closed:
            self.record(Closed())

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies
    def on_closed(self, event: Closed) -> None:
        self.is_closed = True


class Deposit(Command[int]):
    account: UUID
    amount: int


class Transfer(Command[None]):
    source: UUID
    target: UUID
    amount: int


class Close(Command[None]):
    account: UUID


class GetBalance(Query[int]):
    account: UUID


class Balances(StreamRequest[int]):
    accounts: tuple[UUID, ...]


class Greet(Command[int]):
    account: Ref[Account]


class Bank:
    """What a container would provide."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def authorize(self, amount: int) -> None:
        self.asked.append(amount)


async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
    account = await accounts.get_or_new(command.account)
    account.deposit(command.amount)
    return account.balance


class TransferHandler(RequestHandler[Transfer, None]):
    def __init__(self, accounts: Repository[Account], unit: UnitOfWork, bank: Bank) -> None:
        self._accounts, self._unit, self._bank = accounts, unit, bank

    async def handle(self, command: Transfer) -> None:
        source = await self._accounts.get(command.source)
        target = await self._accounts.get(command.target)
        await self._bank.authorize(command.amount)
        self._unit.publish(Announced(what="transfer"))
        source.deposit(-command.amount)
        target.deposit(command.amount)


async def close(command: Close, accounts: Repository[Account]) -> None:
    (await accounts.get(command.account)).close()


async def test_what_is_recorded_and_answered_is_held_against_what_is_expected() -> None:
    outcome = await scenario(deposit).given(Account, ADA, Deposited(amount=5)).when(Deposit(account=ADA, amount=3))
    outcome.then(Deposited(amount=3)).then_returns(8)


async def test_a_stream_that_was_not_given_is_empty() -> None:
    (await scenario(deposit).when(Deposit(account=ADA, amount=3))).then_returns(3)
    (await scenario(close).when(Close(account=ADA))).then_raises(NotFoundError)


async def test_a_handler_class_is_given_doubles_and_its_aggregates_are_told_apart() -> None:
    bank = Bank()
    outcome = await (
        scenario(TransferHandler)
        .given(Account, ADA, Deposited(amount=5))
        .given(Account, BOB, Deposited(amount=1))
        .with_(Bank, bank)
        .when(Transfer(source=ADA, target=BOB, amount=2))
    )
    outcome.then_of(Account, ADA, Deposited(amount=-2)).then_of(Account, BOB, Deposited(amount=2))
    outcome.then_published(Announced(what="transfer"))
    outcome.then(Deposited(amount=-2), Deposited(amount=2), Announced(what="transfer"))
    assert bank.asked == [2]


async def test_a_refusal_is_given_to_be_looked_at_and_has_recorded_nothing() -> None:
    given = scenario(TransferHandler).given(Account, ADA, Deposited(amount=5)).given(Account, BOB, Closed())
    outcome = await given.with_(Bank, Bank()).when(Transfer(source=ADA, target=BOB, amount=2))
    assert outcome.then_raises(ClosedError).code == "closed"
    assert outcome.happened == ()


async def test_what_is_idempotent_records_no_more_when_it_is_handled_twice() -> None:
    given = scenario(close).given(Account, ADA, Deposited(amount=5))
    (await given.when(Close(account=ADA), number_of_times=2)).then(Closed())
    twice = await scenario(deposit).when(Deposit(account=ADA, amount=1), number_of_times=2)
    twice.then_returns(2)
    with pytest.raises(AssertionError, match="other events"):
        twice.then(Deposited(amount=1))
    with pytest.raises(ValueError, match="once or more often"):
        await given.when(Close(account=ADA), number_of_times=0)


async def test_a_refusal_the_second_time_does_not_hide_what_the_first_has_recorded() -> None:
    class CloseOnce(RequestHandler[Close, None]):
        def __init__(self, accounts: Repository[Account]) -> None:
            self._accounts = accounts

        async def handle(self, command: Close) -> None:
            account = await self._accounts.get_or_new(command.account)
            account.deposit(1)
            account.close()

    outcome = await scenario(CloseOnce).when(Close(account=ADA), number_of_times=2)
    with pytest.raises(AssertionError, match=r"after it had recorded Deposited\(amount=1\), Closed\(\)"):
        outcome.then_raises(ClosedError)


async def test_a_scenario_is_not_changed_by_what_comes_of_it() -> None:
    begun = scenario(deposit).given(Account, ADA, Deposited(amount=5))
    begun.given(Account, ADA, Closed())
    for _ in range(2):
        (await begun.when(Deposit(account=ADA, amount=1))).then_returns(6)


async def test_a_history_goes_on_where_it_was_given_before_and_must_be_one_that_the_aggregate_folds() -> None:
    twice = scenario(deposit).given(Account, ADA, Deposited(amount=5)).given(Account, ADA, Deposited(amount=6))
    (await twice.when(Deposit(account=ADA, amount=1))).then_returns(12)
    with pytest.raises(TypeError, match="has no fold"):
        scenario(deposit).given(Account, ADA, Announced(what="?"))


async def test_a_version_is_expected_as_in_the_store() -> None:
    async def check(command: Close, accounts: Repository[Account]) -> None:
        await accounts.get(command.account, expected_version=1)

    given = scenario(check).given(Account, ADA, Deposited(amount=5), Deposited(amount=6))
    (await given.when(Close(account=ADA))).then_raises(ConcurrencyError)


async def test_an_aggregate_that_is_added_where_there_is_one_is_a_conflict() -> None:
    async def add(command: Close, accounts: Repository[Account]) -> None:
        account = Account(command.account)
        account.deposit(1)
        accounts.add(account)

    (await scenario(add).when(Close(account=ADA))).then_of(Account, ADA, Deposited(amount=1))
    there = scenario(add).given(Account, ADA, Deposited(amount=5))
    (await there.when(Close(account=ADA))).then_raises(ConcurrencyError)


async def test_a_query_that_records_is_refused_as_in_the_application() -> None:
    async def balance(query: GetBalance, accounts: Repository[Account]) -> int:
        return (await accounts.get(query.account)).balance

    async def greedy(query: GetBalance, accounts: Repository[Account]) -> int:
        (await accounts.get(query.account)).deposit(1)
        return 1

    given = scenario(balance).given(Account, ADA, Deposited(amount=5))
    (await given.when(GetBalance(account=ADA))).then().then_returns(5)
    wrong = scenario(greedy).given(Account, ADA, Deposited(amount=5))
    (await wrong.when(GetBalance(account=ADA))).then_raises(ReadOnlyError)


async def test_a_stream_is_answered_by_a_list() -> None:
    async def balances(request: Balances, accounts: Repository[Account]) -> AsyncIterator[int]:
        for one in request.accounts:
            yield (await accounts.get_or_new(one)).balance

    given = scenario(balances).given(Account, ADA, Deposited(amount=5))
    (await given.when(Balances(accounts=(ADA, BOB)))).then_returns([5, 0])


async def test_a_handler_of_events_is_told_the_same_way() -> None:
    class Reward(EventHandler[Announced]):
        def __init__(self, accounts: Repository[Account], events: EventMediator) -> None:
            self._accounts, self._events = accounts, events

        async def handle(self, event: Announced) -> None:
            (await self._accounts.get_or_new(ADA)).deposit(1)
            await self._events.publish(Announced(what=event.what + "!"))

    outcome = await scenario(Reward).when(Announced(what="hear"))
    outcome.then_of(Account, ADA, Deposited(amount=1)).then_published(Announced(what="hear!"))


async def test_time_ids_and_metadata_are_what_the_test_says() -> None:
    class Noon:
        def now(self) -> datetime:
            return datetime(2026, 1, 1, 12, tzinfo=UTC)

    class Ids:
        def __call__(self) -> UUID:
            return BOB

    seen: list[Any] = []

    async def look(command: Close, clock: Clock, ids: IdFactory, metadata: Metadata) -> None:
        seen.append((clock.now(), ids(), metadata.user, metadata.tenant, metadata.correlation_id))

    on_behalf = Metadata(message_id=ADA, correlation_id="a", time=Noon().now(), user="ada", tenant="north")
    given = scenario(look).with_(Clock, Noon()).with_(IdFactory, Ids()).with_(Metadata, on_behalf)
    await given.when(Close(account=ADA))
    assert seen == [(Noon().now(), BOB, "ada", "north", "a")]
    with pytest.raises(LookupError):
        Metadata.current()

    async def hear(event: Announced, metadata: Metadata) -> None:
        seen.append((metadata.user, metadata.tenant))

    await scenario(hear).with_(Metadata, on_behalf).when(Announced(what="?"))
    assert seen[1:] == [("ada", "north")]


async def test_references_to_aggregates_are_resolved_from_what_was_given() -> None:
    async def greet(command: Greet, unit: UnitOfWork) -> int:
        return (await command.account.resolve()).balance

    given = scenario(greet).given(Account, ADA, Deposited(amount=5))
    (await given.when(Greet(account=Ref(Account, ADA)))).then_returns(5)


async def test_savepoints_work_as_in_the_application() -> None:
    async def cautious(command: Deposit, accounts: Repository[Account], unit: UnitOfWork) -> int:
        account = await accounts.get_or_new(command.account)
        try:
            async with unit.savepoint():
                account.deposit(command.amount)
                raise ClosedError("too late")  # noqa: TRY301  # the case under test
        except ClosedError:
            account.deposit(1)
        return account.balance

    (await scenario(cautious).when(Deposit(account=ADA, amount=7))).then(Deposited(amount=1)).then_returns(1)


@pytest.mark.parametrize("wanted", [AsyncSession, EventStore, RequestMediator])
async def test_what_needs_an_application_is_refused_with_what_to_use(wanted: type) -> None:
    async def reaching(command: Close, thing: Any) -> None: ...

    reaching.__annotations__["thing"] = wanted
    with pytest.raises(OutOfReachError, match=rf"{wanted.__name__}.*cqrs\.running\(workers=\(\)\)"):
        await scenario(reaching).when(Close(account=ADA))
    await scenario(reaching).with_(wanted, object()).when(Close(account=ADA))


async def test_a_dependency_that_is_missing_is_told_as_by_the_application_and_where_a_double_goes() -> None:
    with pytest.raises(RegistrationError, match="parameter 'bank', asks for Bank, which nothing provides") as wrong:
        await scenario(TransferHandler).when(Transfer(source=ADA, target=BOB, amount=2))
    assert "with_(type, double)" in wrong.value.__notes__[0]


async def test_a_handler_of_another_message_is_refused() -> None:
    with pytest.raises(RegistrationError, match="takes Deposit and is bound to Close"):
        await scenario(deposit).when(Close(account=ADA))


async def test_a_failure_shows_the_difference() -> None:
    outcome = await scenario(deposit).when(Deposit(account=ADA, amount=1))
    with pytest.raises(AssertionError) as failure:
        outcome.then(Deposited(amount=2))
    lines = str(failure.value).splitlines()
    assert lines[0] == "other events were recorded than expected (- expected, + recorded):"
    assert [line for line in lines if line.startswith(("- ", "+ "))] == [
        "- Deposited(amount=2)",
        "+ Deposited(amount=1)",
    ]
    with pytest.raises(AssertionError, match=rf"recorded in Account-{BOB} than expected"):
        outcome.then_of(Account, BOB, Deposited(amount=1))
    with pytest.raises(AssertionError, match="recorded without an aggregate than expected"):
        outcome.then_published(Announced(what="?"))
    with pytest.raises(AssertionError, match="the answer 5 was expected, and it was 1"):
        outcome.then_returns(5)
    with pytest.raises(AssertionError, match=r"ClosedError was expected, and it recorded Deposited\(amount=1\)"):
        outcome.then_raises(ClosedError)


async def test_an_error_where_something_else_was_expected_is_shown_with_its_cause() -> None:
    outcome = await scenario(deposit).given(Account, ADA, Closed()).when(Deposit(account=ADA, amount=1))
    for expectation in (outcome.then, lambda: outcome.then_returns(1), outcome.then_published):
        with pytest.raises(AssertionError, match=r"it raised ClosedError") as failure:
            expectation()
        assert isinstance(failure.value.__cause__, ClosedError)
    with pytest.raises(AssertionError, match="KeyError was expected, and it raised ClosedError"):
        outcome.then_raises(KeyError)


async def test_a_message_handled_without_a_unit_of_work_has_recorded_nothing() -> None:
    async def silent(command: Deposit) -> int:
        return command.amount

    (await scenario(silent).when(Deposit(account=uuid4(), amount=4))).then().then_returns(4)
