import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cqrs_fastapi.errors import UnknownMessageError
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.forms import event
from cqrs_fastapi.messages.registry import EventRegistry


class Deposited(Event, name="account.deposited", version=2):
    amount: int


@event(name="account.closed")
@dataclass(frozen=True)
class Closed:
    reason: str


REGISTRY = EventRegistry([Deposited, Closed, Deposited])

_listeners: list[list[str]] = []


def _listen(name: str, arguments: tuple[Any, ...]) -> None:
    if _listeners and name in ("import", "exec", "compile", "open", "pickle.find_class"):
        _listeners[0].append(f"{name} {arguments}")


sys.addaudithook(_listen)  # it cannot be removed, so it listens only while a test asks for it


@pytest.fixture
def forbidden() -> Iterator[list[str]]:
    """What was imported, compiled, opened or unpickled during the test."""
    heard: list[str] = []
    _listeners.append(heard)
    yield heard
    _listeners.clear()


def test_a_class_is_found_by_its_exact_name_and_version() -> None:
    assert REGISTRY.named("account.deposited", 2).event_type is Deposited
    assert REGISTRY.of(Closed("over")).definition.name == "account.closed"
    assert REGISTRY.read("account.deposited", 2, b'{"amount":3}') == [Deposited(amount=3)]


def test_a_class_that_is_named_twice_is_held_once() -> None:
    assert len(REGISTRY) == 2
    assert {registered.event_type for registered in REGISTRY} == {Deposited, Closed}


@pytest.mark.parametrize(
    "name",
    [
        "Deposited",
        "account.Deposited",
        "ACCOUNT.DEPOSITED",
        "account.deposited ",
        "account.deposited\x00",
        "аccount.deposited",  # noqa: RUF001  # the first letter is Cyrillic on purpose
        "account․deposited",  # noqa: RUF001  # a one dot leader instead of the full stop
        "ａccount.deposited",  # noqa: RUF001  # a full-width letter, which NFKC would make the same
        "os.system",
        "builtins.eval",
        "antigravity",
        "__builtins__",
        "__class__",
        "__import__('os')",
        "cqrs_fastapi.messages.events.Event",
        "test_event_registry.Deposited",
        "../../etc/passwd",
        "",
        "\ud800",
        "x" * 1_000_000,
    ],
)
def test_any_other_name_is_unknown_and_imports_nothing(name: str, forbidden: list[str]) -> None:
    with pytest.raises(UnknownMessageError, match="is registered; bind a handler for it"):
        REGISTRY.read(name, 2, b'{"amount":3}')
    assert forbidden == []
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("version", [0, 1, 3, -2, 2**70])
def test_another_version_is_unknown(version: int) -> None:
    with pytest.raises(UnknownMessageError) as caught:
        REGISTRY.named("account.deposited", version)
    assert (caught.value.name, caught.value.version) == ("account.deposited", version)


def test_two_classes_with_one_name_and_version_are_an_error_that_says_what_to_write() -> None:
    class Double(Event, name="account.deposited", version=2):
        pass

    with pytest.raises(
        ValueError, match=r"are both stored as 'account\.deposited' version 2; give one of them another"
    ):
        EventRegistry([Deposited, Double])


def test_two_versions_of_one_name_live_together() -> None:
    class Earlier(Event, name="account.deposited", version=1):
        cents: int

    registry = EventRegistry([Deposited, Earlier])
    assert registry.read("account.deposited", 1, b'{"cents":300}') == [Earlier(cents=300)]
    assert registry.read("account.deposited", 2, b'{"amount":3}') == [Deposited(amount=3)]


def test_an_event_that_was_not_registered_is_told_by_its_stored_name() -> None:
    class Stranger(Event, name="stranger", version=7):
        pass

    with pytest.raises(UnknownMessageError, match=r"'stranger' version 7"):
        REGISTRY.of(Stranger())
