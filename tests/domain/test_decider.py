"""Aggregates as two pure functions, alone and in an application."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi import CQRS, Command, Decider, DomainError, Event, Repository, Settings, applies
from cqrs_fastapi.testing import given

pytestmark = pytest.mark.anyio


class Deposited(Event):
    cents: int


class Withdrawn(Event):
    cents: int


class Closed(Event):
    pass


class Deposit(Command[int]):
    account_id: UUID
    cents: int


class Withdraw(Command[int]):
    account_id: UUID
    cents: int


class OverdrawnError(DomainError):
    code = "overdrawn"


@dataclass(frozen=True)
class Balance:
    cents: int = 0


class Account(Decider[Balance], category="account"):
    initial = Balance()

    @staticmethod
    def decide(state: Balance, command: Deposit | Withdraw) -> Iterable[Event]:
        match command:
            case Deposit(cents=cents):
                return [Deposited(cents=cents)]
            case Withdraw(cents=cents) if cents > state.cents:
                raise OverdrawnError(f"{state.cents} are there")
            case Withdraw(cents=cents):
                return [Withdrawn(cents=cents)]

    @staticmethod
    def evolve(state: Balance, event: Deposited | Withdrawn) -> Balance:
        match event:
            case Deposited(cents=cents):
                return replace(state, cents=state.cents + cents)
            case Withdrawn(cents=cents):
                return replace(state, cents=state.cents - cents)


class Counter(Decider[int]):
    initial = 0

    @staticmethod
    def decide(state: int, command: Deposit) -> Iterable[Event]:
        return [] if state else [Closed()]

    @staticmethod
    def evolve(state: int, event: Closed) -> int:
        return state + 1


AN_ACCOUNT = UUID(int=1)


def test_a_decision_is_recorded_and_folded() -> None:
    account = given(Account, Deposited(cents=5)).when(Withdraw(account_id=AN_ACCOUNT, cents=3)).then(Withdrawn(cents=3))
    assert account.state == Balance(2)


def test_a_decision_may_be_refused() -> None:
    given(Account).when(Withdraw(account_id=AN_ACCOUNT, cents=3)).then_raises(OverdrawnError)


def test_what_follows_is_given_to_whoever_asked() -> None:
    account = Account(AN_ACCOUNT)
    assert account.execute(Deposit(account_id=AN_ACCOUNT, cents=1)) == (Deposited(cents=1),)


def test_a_single_event_needs_no_union_and_a_command_may_have_no_consequences() -> None:
    given(Counter).when(Deposit(account_id=AN_ACCOUNT, cents=1), number_of_times=2).then(Closed())


def test_an_event_that_evolve_does_not_name_is_refused() -> None:
    with pytest.raises(TypeError, match="Account records Closed and has no fold"):
        given(Account, Closed())


@pytest.mark.parametrize(
    ("left_out", "told"), [("initial", "has no initial"), ("decide", "has no decide"), ("evolve", "has no evolve")]
)
def test_what_is_left_out_is_told_when_the_class_is_made(left_out: str, told: str) -> None:
    body = {"initial": 0, "decide": Counter.__dict__["decide"], "evolve": Counter.__dict__["evolve"]}
    del body[left_out]
    with pytest.raises(TypeError, match=told):
        type("Thing", (Decider,), body)


def test_a_fold_beside_evolve_is_refused() -> None:
    @applies
    def on_deposited(self: object, event: Deposited) -> None: ...

    body = {**{name: Counter.__dict__[name] for name in ("initial", "decide", "evolve")}, "on_deposited": on_deposited}
    with pytest.raises(TypeError, match="has folds of its own, on_deposited"):
        type("Thing", (Decider,), body)


def test_evolve_says_which_events_it_knows() -> None:
    def evolve(state: int, event) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001  # which is what is wrong
        return state

    with pytest.raises(TypeError, match="does not say which event it applies"):
        type("Thing", (Decider,), {"initial": 0, "decide": Counter.__dict__["decide"], "evolve": staticmethod(evolve)})


async def test_a_decider_is_loaded_and_stored_as_any_aggregate(sqlite_url: str) -> None:
    cqrs = CQRS(settings=Settings(database_url=sqlite_url))

    @cqrs.handles(Deposit)
    async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
        account = await accounts.get_or_new(command.account_id)
        account.execute(command)
        return account.state.cents

    @cqrs.handles(Withdraw)
    async def withdraw(command: Withdraw, accounts: Repository[Account]) -> int:
        account = await accounts.get(command.account_id)
        account.execute(command)
        account.execute(command)  # which sees what the first has led to
        return account.state.cents

    account = uuid4()
    async with cqrs.running(workers=()):
        send = cqrs.mediator.send
        assert [await send(Deposit(account_id=account, cents=cents)) for cents in (5, 6)] == [5, 11]
        assert await send(Withdraw(account_id=account, cents=4)) == 3
        with pytest.raises(OverdrawnError):
            await send(Withdraw(account_id=account, cents=2))
        assert await send(Deposit(account_id=account, cents=0)) == 3
