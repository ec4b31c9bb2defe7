from dataclasses import FrozenInstanceError, dataclass

import msgspec
import pytest
from pydantic import ValidationError

from cqrs_fastapi.messages.events import ECSTEvent, Event, EventDefinition, NotificationEvent, definition_of
from cqrs_fastapi.messages.forms import command, event, kind_of, query
from cqrs_fastapi.messages.requests import Command, Query, Request, StreamRequest


class Deposited(Event):
    amount: int


class Renamed(Event, name="account.renamed", version=3, topic="accounts"):
    name: str


@event(name="account.closed", version=2, topic="accounts")
@dataclass(frozen=True, slots=True)
class Closed:
    reason: str


@event()
class Opened(msgspec.Struct, frozen=True):
    owner: str


class Deposit(Command[int]):
    amount: int


class GetBalance(Query[int]):
    account: str


class Export(StreamRequest[str]):
    account: str


@command
@dataclass(frozen=True)
class Close(Request[None]):
    reason: str


@query
class GetOwner(msgspec.Struct, Request[str], frozen=True):
    account: str


@pytest.mark.parametrize(
    ("event_type", "definition"),
    [
        (Deposited, EventDefinition("Deposited", 1, None)),
        (Renamed, EventDefinition("account.renamed", 3, "accounts")),
        (Closed, EventDefinition("account.closed", 2, "accounts")),
        (Opened, EventDefinition("Opened", 1, None)),
    ],
)
def test_every_form_of_event_has_a_name_a_version_and_perhaps_a_topic(
    event_type: type, definition: EventDefinition
) -> None:
    assert definition_of(event_type) == definition


def test_the_stored_name_never_depends_on_where_the_class_lives() -> None:
    class Inner(Event):
        pass

    Inner.__module__ = "moved.elsewhere"
    assert definition_of(Inner).name == "Inner"
    assert "." not in definition_of(Deposited).name


@pytest.mark.parametrize(
    ("request_type", "kind"),
    [
        (Deposit, "command"),
        (Close, "command"),
        (GetBalance, "query"),
        (GetOwner, "query"),
        (Export, "stream"),
        (int, None),
        (Deposited, None),
    ],
)
def test_every_form_of_request_has_a_kind(request_type: type, kind: str | None) -> None:
    assert kind_of(request_type) == kind


def test_an_unknown_class_argument_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"Mistyped: unknown class argument topik; there are name, version, topic"):
        type("Mistyped", (Event,), {"__module__": __name__}, topik="accounts")
    with pytest.raises(TypeError):
        type("Mistyped", (Command[int],), {"__module__": __name__}, name="x")


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_below_1_is_an_error(version: int) -> None:
    with pytest.raises(TypeError, match=r"version must be 1 or more"):
        type("Early", (Event,), {"__module__": __name__}, version=version)
    with pytest.raises(TypeError, match=r"version must be 1 or more"):
        event(version=version)(dataclass(type("Early", (), {})))


def test_a_subclass_of_an_event_is_an_event_of_its_own() -> None:
    class Later(Renamed):
        pass

    assert definition_of(Later) == EventDefinition("Later", 1, None)


def test_a_subclass_of_a_marked_dataclass_is_no_event_until_it_is_marked_itself() -> None:
    @dataclass(frozen=True)
    class Later(Closed):
        pass

    with pytest.raises(TypeError, match=r"Later is not an event: inherit from cqrs_fastapi\.Event"):
        definition_of(Later)


def test_something_else_is_no_event_and_the_error_says_how_to_make_it_one() -> None:
    with pytest.raises(TypeError, match=r"put @event\(name=\.\.\.\) outermost"):
        definition_of(int)


def test_a_mark_below_the_dataclass_decorator_is_refused() -> None:
    with pytest.raises(TypeError, match=r"put @event outermost"):

        @dataclass
        @event()
        class Inside:
            reason: str


def test_a_request_that_does_not_say_what_it_answers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"inherit Request\[YourResult\]"):

        @command
        @dataclass
        class Mute:
            reason: str


def test_messages_are_frozen() -> None:
    for message, field in ((Deposited(amount=1), "amount"), (Deposit(amount=1), "amount"), (Closed("x"), "reason")):
        with pytest.raises((ValidationError, FrozenInstanceError)):
            setattr(message, field, 2)


@pytest.mark.parametrize("request_type", [Deposit, GetBalance, Export])
def test_requests_refuse_unknown_fields(request_type: type[Deposit]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        request_type.model_validate({"amount": 1, "account": "a", "amuont": 2})


@pytest.mark.parametrize("base", [Event, NotificationEvent, ECSTEvent])
def test_stored_events_ignore_unknown_fields_so_that_older_code_reads_newer_ones(base: type[Event]) -> None:
    assert base.model_validate({"later": 1}) == base()


def test_the_ties_for_type_checkers_are_never_called() -> None:
    with pytest.raises(TypeError, match="exists for type checkers"):
        Deposit.__answers__()
    with pytest.raises(TypeError, match="exists for type checkers"):
        Export.__streams__()
