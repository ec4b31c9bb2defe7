"""Aggregates without a database."""

from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi import Aggregate, Event, applies, event, state


class Opened(Event):
    owner: str


class Deposited(Event):
    amount: int


@event(name="noted")
@dataclass(frozen=True)
class Noted:
    text: str


class Account(Aggregate, category="account"):
    owner: str = ""
    balance: int = 0
    notes: list[str] = state(list)

    @applies
    def on_opened(self, event: Opened) -> None:
        self.owner = event.owner

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies
    def on_noted(self, event: Noted) -> None:
        self.notes.append(event.text)


def test_recording_applies_at_once_and_keeps_the_event() -> None:
    account = Account(uuid4())

    account.record(Opened(owner="ada"))
    account.record(Deposited(amount=3))
    account.record(Noted("hi"))

    assert (account.owner, account.balance, account.notes) == ("ada", 3, ["hi"])
    assert account.recorded == (Opened(owner="ada"), Deposited(amount=3), Noted("hi"))
    assert (account.version, account.is_new) == (0, True)


def test_replay_gives_the_state_that_recording_gave() -> None:
    account = Account(uuid4())
    account.replay([Opened(owner="ada"), Deposited(amount=3)], version=2)

    assert (account.owner, account.balance, account.version) == ("ada", 3, 2)
    assert account.recorded == ()


def test_mutable_fields_are_each_instance_s_own() -> None:
    one, other = Account(uuid4()), Account(uuid4())
    one.record(Noted("x"))
    assert other.notes == []


def test_the_stream_is_category_and_id() -> None:
    identity = UUID("00000000-0000-7000-8000-000000000001")
    assert Account(identity).stream == f"account-{identity}"


def test_a_subclass_may_override_a_fold_without_repeating_the_mark() -> None:
    class Doubling(Account):
        def on_deposited(self, event: Deposited) -> None:
            self.balance += 2 * event.amount

    account = Doubling(uuid4())
    account.record(Deposited(amount=2))
    assert account.balance == 4


def test_an_event_without_a_fold_is_refused_with_what_to_write() -> None:
    class Closed(Event):
        pass

    with pytest.raises(TypeError, match=r"Account records Closed and has no fold.*@applies def on_closed"):
        Account(uuid4()).record(Closed())


def test_two_folds_for_one_event_are_refused_at_class_creation() -> None:
    with pytest.raises(TypeError, match="applies Deposited twice"):

        class Twice(Aggregate):
            @applies
            def one(self, event: Deposited) -> None: ...

            @applies
            def two(self, event: Deposited) -> None: ...


def test_a_shared_mutable_default_is_refused_at_class_creation() -> None:
    with pytest.raises(TypeError, match=r"lines = state\(list\)"):

        class Shared(Aggregate):
            lines: list[str] = []  # noqa: RUF012  # the fault under test


@pytest.mark.parametrize("name", ["version", "record", "stream", "recorded"])
def test_a_field_named_like_an_attribute_of_the_library_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} would hide"):
        type("Hiding", (Aggregate,), {name: 1})


def test_a_fold_that_does_not_say_its_event_is_refused() -> None:
    with pytest.raises(TypeError, match="does not say which event"):

        class Silent(Aggregate):
            @applies
            def on_something(self, event) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001  # the fault under test


def test_a_fold_of_something_else_than_an_event_is_refused() -> None:
    with pytest.raises(TypeError, match="int is not an event"):

        class Wrong(Aggregate):
            @applies
            def on_number(self, event: int) -> None: ...
