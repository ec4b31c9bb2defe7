"""given, when, then of aggregates: what passes, what fails, and what a failure says."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import pytest

from cqrs_fastapi import Aggregate, DomainError, Event, applies, event
from cqrs_fastapi.testing import given


class Deposited(Event):
    amount: int


@event(name="closed")
@dataclass(frozen=True)
class Closed:
    by: str = "somebody"


class Unknown(Event):
    pass


class ClosedError(DomainError):
    code = "closed"


class Account(Aggregate):
    balance: int = 0
    is_closed: bool = False

    def deposit(self, *amounts: int) -> None:
        for amount in amounts:
            if self.is_closed:
                raise ClosedError("it is closed")
            self.record(Deposited(amount=amount))

    def close(self) -> None:
        if not self.is_closed:
            self.record(Closed())

    def fail_half_way(self) -> None:
        self.deposit(1)
        raise ClosedError("too late")

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies
    def on_closed(self, event: Closed) -> None:
        self.is_closed = True


def test_what_is_recorded_is_held_against_what_is_expected() -> None:
    outcome = given(Account, Deposited(amount=5)).when(lambda account: account.deposit(2, 3))
    account = outcome.then(Deposited(amount=2), Deposited(amount=3))
    assert (account.balance, account.version) == (10, 1)


def test_nothing_is_expected_by_then_without_events() -> None:
    given(Account, Closed()).when(Account.close).then()


def test_what_is_idempotent_records_no_more_when_it_is_done_twice() -> None:
    given(Account).when(Account.close, number_of_times=2).then(Closed())
    with pytest.raises(AssertionError, match="other events"):
        given(Account).when(lambda account: account.deposit(1), number_of_times=2).then(Deposited(amount=1))
    with pytest.raises(ValueError, match="once or more often"):
        given(Account).when(Account.close, number_of_times=0)


def test_a_refusal_is_given_to_be_looked_at() -> None:
    refused = given(Account, Closed()).when(lambda account: account.deposit(1)).then_raises(ClosedError)
    assert refused.code == "closed"


def test_the_id_may_matter() -> None:
    wanted = uuid4()
    assert given(Account, id=wanted).when(Account.close).then(Closed()).id == wanted


@pytest.mark.parametrize(
    ("recorded", "expected", "shown"),
    [
        ((), (1,), ["- Deposited(amount=1)"]),
        ((1,), (), ["+ Deposited(amount=1)"]),
        ((1, 2), (2, 1), ["+ Deposited(amount=1)", "  Deposited(amount=2)", "- Deposited(amount=1)"]),
    ],
)
def test_a_failure_shows_the_difference(recorded: tuple[int, ...], expected: tuple[int, ...], shown: list[str]) -> None:
    outcome = given(Account).when(lambda account: account.deposit(*recorded))
    with pytest.raises(AssertionError) as failure:
        outcome.then(*(Deposited(amount=amount) for amount in expected))
    lines = str(failure.value).splitlines()
    assert lines[0] == "other events were recorded than expected (- expected, + recorded):"
    assert [line for line in lines[1:] if not line.startswith("?")] == shown


def test_an_error_where_events_are_expected_is_shown_with_its_cause() -> None:
    with pytest.raises(AssertionError, match=r"it raised ClosedError.*Deposited\(amount=1\) was expected") as failure:
        given(Account, Closed()).when(lambda account: account.deposit(1)).then(Deposited(amount=1))
    assert isinstance(failure.value.__cause__, ClosedError)


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda account: account.deposit(1), r"ClosedError was expected, and it recorded Deposited\(amount=1\)"),
        (lambda account: account.deposit("x"), "ClosedError was expected, and it raised"),
        (Account.fail_half_way, r"after it had recorded Deposited\(amount=1\)"),
    ],
)
def test_a_refusal_that_does_not_come_as_expected_fails(act: object, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        given(Account).when(act).then_raises(ClosedError)  # type: ignore[arg-type]  # they are of three kinds


def test_a_history_that_the_aggregate_cannot_fold_is_refused() -> None:
    with pytest.raises(TypeError, match="has no fold"):
        given(Account, Unknown())


def test_only_a_decider_is_given_commands() -> None:
    with pytest.raises(TypeError, match="Account is no Decider; write: when"):
        given(Account).when(Unknown())
