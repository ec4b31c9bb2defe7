"""Stored events of earlier versions and of other names, read as the classes of today."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cqrs_fastapi import CQRS, Event, Upcast, event, upcasts
from cqrs_fastapi.errors import MalformedMessageError, RegistrationError, UnknownMessageError
from cqrs_fastapi.messages.chains import Chains
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.messages.upcasters import Upcaster, UpcasterMap

Data = dict[str, Any]


class Deposited(Event, name="account.deposited", version=3, aliases=("AccountDeposited", "MoneyIn")):
    cents: int
    currency: str
    at: datetime | None = None


@event(name="fee.taken", aliases=("FeeTaken",))
@dataclass(frozen=True)
class FeeTaken:
    cents: int


@event(name="account.noted", version=2, aliases=["AccountNoted"])
class Noted(msgspec.Struct, frozen=True):
    text: str


@upcasts("account.deposited", version=1)
def in_cents(data: Data) -> Data:
    return {"cents": data["amount"] * 100}


@upcasts("AccountDeposited", version=2)
def with_currency(data: Data) -> Data:
    return {**data, "currency": "EUR"}


@upcasts("account.charged", version=1, into=[("account.deposited", 2), ("fee.taken", 1)])
def with_fee_apart(data: Data) -> Iterable[Upcast]:
    yield Upcast("account.deposited", 2, {"cents": data["cents"]})
    if data["fee"]:
        yield Upcast("FeeTaken" if data["fee"] == 1 else "fee.taken", 1, {"cents": data["fee"]})


@upcasts("account.pinged", version=1, into=[])
def nothing(_: Data) -> Iterable[Upcast]:
    return ()


def upcasters_of(*functions: Callable[[Data], object]) -> list[Upcaster]:
    included = UpcasterMap()
    included.include(*functions)
    return included.upcasters()


CLASSES = (Deposited, FeeTaken, Noted)
REGISTRY = EventRegistry(CLASSES, upcasters_of(in_cents, with_currency, with_fee_apart, nothing))


def read(name: str, version: int, **data: Any) -> list[Any]:
    return REGISTRY.read(name, version, json.dumps(data).encode())


def test_a_chain_goes_from_version_to_version_to_the_class() -> None:
    wanted = [Deposited(cents=300, currency="EUR")]
    assert read("account.deposited", 1, amount=3) == wanted
    assert read("account.deposited", 2, cents=300) == wanted
    assert read("account.deposited", 3, cents=300, currency="EUR") == wanted


@pytest.mark.parametrize("name", ["AccountDeposited", "MoneyIn"])
def test_every_version_of_a_former_name_is_read_as_the_new_one(name: str) -> None:
    wanted = [Deposited(cents=300, currency="EUR")]
    assert read(name, 1, amount=3) == read(name, 2, cents=300) == wanted
    assert read(name, 3, cents=300, currency="EUR") == wanted


def test_dataclasses_and_structs_have_former_names_too() -> None:
    assert read("FeeTaken", 1, cents=2) == [FeeTaken(2)]
    assert read("AccountNoted", 2, text="x") == [Noted("x")]


def test_one_event_becomes_several_in_the_order_that_was_given() -> None:
    assert read("account.charged", 1, cents=100, fee=2) == [Deposited(cents=100, currency="EUR"), FeeTaken(2)]
    assert read("account.charged", 1, cents=100, fee=0) == [Deposited(cents=100, currency="EUR")]


def test_one_event_becomes_none() -> None:
    assert read("account.pinged", 1) == []


@given(
    st.fixed_dictionaries({"cents": st.integers(0, 2**60), "fee": st.integers(2, 2**60)}, optional={"x": st.floats()})
)
def test_what_is_read_depends_on_the_data_alone(data: Data) -> None:
    stored = json.dumps({**data, "x": str(data.get("x"))}).encode()
    first = REGISTRY.read("account.charged", 1, stored)
    assert REGISTRY.read("account.charged", 1, stored) == first
    assert [one.cents for one in first] == [data["cents"], data["fee"]]


def test_what_an_upcaster_changes_is_changed_for_nothing_beside_it() -> None:
    @upcasts("x", version=1, into=[("account.deposited", 1), ("fee.taken", 1)])
    def twice(data: Data) -> list[Upcast]:
        return [Upcast("account.deposited", 1, data), Upcast("fee.taken", 1, data)]

    @upcasts("account.deposited", version=1)
    def rude(data: Data) -> Data:
        data["cents"] += 1
        return data

    registry = EventRegistry(CLASSES, upcasters_of(twice, rude, with_currency))
    assert registry.read("x", 1, b'{"cents": 1}') == [Deposited(cents=2, currency="EUR"), FeeTaken(1)]


def test_values_that_json_has_no_type_for_are_written_as_an_event_s_would_be() -> None:
    @upcasts("x", version=1, into=[("account.deposited", 3)])
    def dated(_: Data) -> Iterable[Upcast]:
        return [Upcast("account.deposited", 3, {"cents": 1, "currency": "EUR", "at": datetime(2026, 1, 1, tzinfo=UTC)})]

    [found] = EventRegistry(CLASSES, upcasters_of(dated)).read("x", 1, b"{}")
    assert found.at == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("name", "version"), [("account.deposited", 4), ("account.charged", 2), ("nobody", 1)])
def test_what_neither_a_class_nor_an_upcaster_reads_is_unknown(name: str, version: int) -> None:
    with pytest.raises(UnknownMessageError) as caught:
        read(name, version)
    assert (caught.value.name, caught.value.version) == (name, version)
    assert not REGISTRY.reads(name, version)


def test_what_can_be_read_is_known_beforehand() -> None:
    assert all(REGISTRY.reads("MoneyIn", version) for version in (1, 2, 3))
    assert REGISTRY.reads("account.pinged", 1)


def test_the_stored_names_of_an_event_are_its_own_its_former_ones_and_those_that_lead_to_it() -> None:
    former = {"AccountDeposited", "MoneyIn"}
    assert REGISTRY.sources_of("account.deposited") == {"account.deposited", "account.charged", *former}
    assert REGISTRY.sources_of("fee.taken") == {"fee.taken", "FeeTaken", "account.charged"}
    assert REGISTRY.sources_of("account.noted") == {"account.noted", "AccountNoted"}


# What goes wrong while it is read.


def failing(raises: Callable[[Data], object]) -> EventRegistry:
    return EventRegistry(CLASSES, [Upcaster("x", 1, (("fee.taken", 1),), raises)])


VALUE = "4711-0815"


def lost_key(data: Data) -> list[Upcast]:
    return [data[VALUE]]


def late_error(_: Data) -> Iterable[Upcast]:
    yield Upcast("fee.taken", 1, {"cents": 1})
    raise ValueError(VALUE)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lost_key, "failed with KeyError in line"),
        (late_error, "failed with ValueError in line"),
        (lambda _: None, "failed with TypeError in line"),
        (lambda _: [{"cents": 1}], "gave a dict; with into=... it gives several Upcast"),
        (lambda _: [Upcast("fee.taken", 2, {})], "gave 'fee.taken' version 2, which its into=... does not name"),
        (lambda _: [Upcast("fee.taken", 1, [1])], "gave a list as the data of 'fee.taken'; it is a dict"),  # type: ignore[arg-type]  # the case itself
        (lambda _: [Upcast("fee.taken", 1, {"cents": object()})], "gave what is no JSON"),
        (lambda _: [Upcast("fee.taken", 1, {"cents": VALUE})], "FeeTaken: cents"),
        (lambda _: [Upcast("fee.taken", 1, {"cents": "\ud800"})], "gave what is no JSON"),
    ],
)
def test_a_failing_upcaster_is_told_without_values(function: Callable[[Data], object], told: str) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        failing(function).read("x", 1, json.dumps({"cents": VALUE}).encode())
    assert told in str(caught.value)
    assert VALUE not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("data", [b"[1]", b"1", b"not json", b'{"a":NaN}', b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"])
def test_data_that_is_no_json_object_never_reaches_an_upcaster(data: bytes) -> None:
    called: list[Data] = []
    with pytest.raises(MalformedMessageError):
        failing(lambda given: called.append(given) or []).read("x", 1, data)
    assert called == []


# What goes wrong at the start.


class Renamed(Event, name="renamed", aliases=("fee.taken",)):
    pass


class Other(Event, name="other", aliases=("MoneyIn",)):
    pass


@upcasts("account.deposited", version=3)
def of_the_class(data: Data) -> Data:
    return data


@upcasts("MoneyIn", version=2)
def second(data: Data) -> Data:
    return data


@upcasts("lonely", version=1)
def to_nowhere(data: Data) -> Data:
    return data


@upcasts("ring", version=1, into=[("gnir", 1)])
def there(_: Data) -> list[Upcast]:
    return []


@upcasts("gnir", version=1, into=[("ring", 1), ("fee.taken", 1)])
def back(_: Data) -> list[Upcast]:
    return []


def no_upcaster(data: Data) -> Data:
    return data


def test_all_that_is_wrong_with_chains_is_numbered_at_the_start() -> None:
    cqrs = CQRS()
    cqrs.register(*CLASSES, Renamed, Other)
    cqrs.upcasters.include(in_cents, with_currency, of_the_class, second, to_nowhere, there, back, no_upcaster)
    with pytest.raises(RegistrationError) as caught:
        _ = cqrs.registry
    assert sorted(caught.value.problems) == [
        "'MoneyIn' is an alias of both 'account.deposited' and 'other'; take it from one of them",
        (
            "'fee.taken' is an alias of 'renamed' and the name of another event; a stored name stands for one event: "
            "take the alias away, or give the other one another name"
        ),
        "no_upcaster is no upcaster; write above it: @upcasts('stored.name', version=1)",
        (
            "of_the_class reads 'account.deposited' version 3, which a class reads as it is; give the class a higher "
            "version, or take the upcaster away"
        ),
        (
            "these upcasters lead back to where they begin: back of 'gnir' version 1, there of 'ring' version 1; the "
            "last of a chain leads to a class"
        ),
        (
            "to_nowhere makes 'lonely' version 2 of 'lonely' version 1, and nothing reads that; register its class by "
            "cqrs.register(...), or write an upcaster: @upcasts('lonely', version=2)"
        ),
        "with_currency and second both read 'account.deposited' version 2; a version has one upcaster",
    ]


def test_an_upcaster_that_is_included_twice_is_used_once() -> None:
    included = UpcasterMap()
    included.include(in_cents, in_cents)
    assert len(included.upcasters()) == 1


def test_one_function_may_read_several_versions() -> None:
    @upcasts("account.deposited", version=1)
    @upcasts("account.deposited", version=2)
    def any_of_them(data: Data) -> Data:
        return {"cents": 1, "currency": "EUR", **data}

    registry = EventRegistry(CLASSES, upcasters_of(any_of_them))
    assert registry.read("account.deposited", 1, b"{}") == [Deposited(cents=1, currency="EUR")]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 3)),
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3)), max_size=3),
        max_size=10,
    )
)
def test_chains_without_a_problem_always_end_at_a_class(steps: dict[tuple[str, int], list[tuple[str, int]]]) -> None:
    class Last(Event, name="d", version=3):
        pass

    def all_of(targets: list[tuple[str, int]]) -> Callable[[Data], list[Upcast]]:
        return lambda _: [Upcast(name, version, {}) for name, version in targets]

    made = [Upcaster(*key, tuple(targets), all_of(targets)) for key, targets in steps.items()]
    chains = Chains([definition_of(Last)], made)
    if chains.problems:
        return
    registry = EventRegistry([Last], made)
    for name, version in steps:
        assert all(isinstance(one, Last) for one in registry.read(name, version, b"{}"))


# What goes wrong where it is written.


def test_a_mark_that_makes_no_sense_is_refused_where_it_stands() -> None:
    with pytest.raises(TypeError, match="version must be 1 or more, not 0"):
        upcasts("x", version=0)
    with pytest.raises(TypeError, match=r"into names stored events: into=\[\('order.placed', 2\)\], not <class"):
        upcasts("x", version=1, into=[Deposited])  # type: ignore[list-item]  # the case itself
    with pytest.raises(TypeError, match="write def, not async def"):

        @upcasts("x", version=1)  # type: ignore[type-var]  # the case itself
        async def asks(data: Data) -> Data:
            return data


def test_former_names_that_make_no_sense_are_refused_where_they_stand() -> None:
    with pytest.raises(TypeError, match=r"aliases are several; write: aliases=\('Old',\)"):

        class One(Event, aliases="Old"):
            pass

    with pytest.raises(TypeError, match="'two' is its name; aliases are the names that it had before"):

        @event(name="two", aliases=("two",))
        @dataclass
        class Two:
            pass
