"""When snapshots are taken, what states they can hold, and which code they belong to. Without a database."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from cqrs_fastapi import (
    Aggregate,
    Decider,
    Entity,
    EntitySet,
    Event,
    ValueObject,
    ValueObjectSet,
    applies,
    every,
    state,
    upcasts,
    when_loading_takes,
)
from cqrs_fastapi.domain.snapshot_form import SnapshotForm
from cqrs_fastapi.domain.snapshots import Loading
from cqrs_fastapi.messages.registry import EventRegistry

ROOT = Path(__file__).parents[2]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tag(ValueObject):
    name: str


class Line(Entity):
    text: str
    tags: tuple[Tag, ...] = ()


class Written(Event):
    line: Line


class Erased(Event):
    index: int


class Paid(Event):
    amount: Decimal
    at: datetime
    by: UUID


class Painted(Event):
    colour: Colour
    ratio: float
    raw: bytes


class Closed(Event):
    pass


class Document(Aggregate, snapshots=every(10)):
    """A field of each kind."""

    LIMIT: ClassVar[int] = 5
    lines: EntitySet[Line] = state(EntitySet)
    tags: ValueObjectSet[Tag] = state(ValueObjectSet)
    payments: dict[UUID, list[tuple[Decimal, datetime]]] = state(dict)
    colours: set[Colour] = state(set)
    total: Decimal = Decimal(0)
    last: Colour | None = None
    ratio: float = 0
    raw: bytes = b""
    _count: int = 0
    closed_after: int

    @applies
    def on_written(self, event: Written) -> None:
        self._count += 1
        self.lines.add(event.line)
        for tag in event.line.tags:
            self.tags.add(tag)

    @applies
    def on_erased(self, event: Erased) -> None:
        for line in list(self.lines)[event.index : event.index + 1]:
            self.lines.discard(line)

    @applies
    def on_paid(self, event: Paid) -> None:
        self.total += event.amount
        self.payments.setdefault(event.by, []).append((event.amount, event.at))

    @applies
    def on_painted(self, event: Painted) -> None:
        self.last, self.ratio = event.colour, self.ratio + event.ratio
        self.raw += event.raw
        self.colours.add(event.colour)

    @applies
    def on_closed(self, event: Closed) -> None:
        self.closed_after = self._count


def form_of(cls: type[Aggregate]) -> SnapshotForm:
    assert cls.__snapshots__ is not None
    return cls.__snapshots__


def held(aggregate: Aggregate) -> dict[str, Any]:
    return {name: getattr(aggregate, name, "never set") for name in ("version", *Document.__annotations__)}


tags = st.builds(Tag, name=st.sampled_from(["a", "b", "ü\x00"]))
lines = st.builds(Line, id=st.uuids(), text=st.text(), tags=st.lists(tags, max_size=3).map(tuple))
amounts = st.decimals(-1000, 1000, allow_nan=False)
times = st.datetimes(timezones=st.just(UTC))
events = st.one_of(
    st.builds(Written, line=lines),
    st.builds(Erased, index=st.integers(0, 3)),
    st.builds(Paid, amount=amounts, at=times, by=st.sampled_from([UUID(int=1), UUID(int=2)])),
    st.builds(
        Painted,
        colour=st.sampled_from(Colour),
        ratio=st.floats(allow_nan=False, min_value=0),
        raw=st.binary(max_size=9),
    ),
    st.builds(Closed),
)


@settings(max_examples=300, deadline=None)
@for_all(history=st.lists(events, max_size=20), cuts=st.lists(st.integers(0, 20), max_size=3))
def test_folding_all_events_gives_what_folding_the_rest_onto_snapshots_gives(
    history: list[Event], cuts: list[int]
) -> None:
    identity, form = uuid4(), form_of(Document)
    whole = Document(identity)
    whole.replay(history, len(history))

    piecewise = Document(identity)
    for cut in sorted({min(cut, len(history)) for cut in cuts} | {len(history)}):
        piecewise.replay(history[piecewise.version : cut], cut)
        kept = form.dump(piecewise)
        piecewise = Document(identity)
        form.restore(piecewise, kept, cut)

    assert held(piecewise) == held(whole)
    assert list(piecewise.lines) == list(whole.lines)


def test_a_snapshot_is_due_every_so_many_events_since_the_last_one() -> None:
    policy = every(10)
    assert [policy.is_due(version, Loading(0, 0.0)) for version in (1, 9, 10, 25)] == [False, False, True, True]
    assert [policy.is_due(version, Loading(20, 0.0)) for version in (21, 29, 30)] == [False, False, True]


def test_a_snapshot_is_due_when_loading_took_long() -> None:
    policy = when_loading_takes(timedelta(milliseconds=20))
    assert not policy.is_due(1000, Loading(0, 0.019))
    assert policy.is_due(1000, Loading(0, 0.020))


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="every 1 or more"):
        every(0)
    with pytest.raises(ValueError, match="always"):
        when_loading_takes(timedelta(0))


def test_a_class_without_a_policy_has_no_snapshots_and_a_subclass_takes_its_policy_over() -> None:
    class Plain(Aggregate):
        anything = object()

    class Sub(Document):
        more: int = 0

    assert Plain.__snapshots__ is None
    assert form_of(Sub).policy == form_of(Document).policy
    assert form_of(Sub).fingerprint != form_of(Document).fingerprint


def test_a_field_without_an_annotation_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Bare\.balance has no annotation.*ClassVar"):

        class Bare(Aggregate, snapshots=every(1)):
            balance = 0


def test_a_field_whose_type_is_no_json_is_refused_when_the_class_is_made() -> None:
    class Socket:
        pass

    globals()["Socket"] = Socket
    with pytest.raises(TypeError, match=r"Wired\.socket cannot be kept in a snapshot"):

        class Wired(Aggregate, snapshots=every(1)):
            socket: Socket | None = None

    with pytest.raises(TypeError, match=r"Called\.then cannot be kept in a snapshot"):

        class Called(Aggregate, snapshots=every(1)):
            then: Callable[[], None] | None = None


def test_an_annotation_that_cannot_be_read_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Late\.line has an annotation that cannot be read.*Nowhere"):

        class Late(Aggregate, snapshots=every(1)):
            line: Nowhere | None = None  # type: ignore[name-defined]  # noqa: F821  # the fault under test


def test_a_decider_without_a_type_of_state_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Untyped\.state cannot be kept in a snapshot"):

        class Untyped(Decider, snapshots=every(1)):  # type: ignore[type-arg]  # the fault under test
            initial = 0

            @staticmethod
            def decide(state: int, command: object) -> Iterable[Event]:
                return []

            @staticmethod
            def evolve(state: int, event: Closed) -> int:
                return state + 1


@dataclass(frozen=True)
class Balance:
    cents: int = 0


class Account(Decider[Balance], snapshots=every(2)):
    initial = Balance()

    @staticmethod
    def decide(state: Balance, command: object) -> Iterable[Event]:
        return [Closed()]

    @staticmethod
    def evolve(state: Balance, event: Closed) -> Balance:
        return replace(state, cents=state.cents + 1)


def test_the_one_value_of_a_decider_is_its_state() -> None:
    account = Account(uuid4())
    account.execute(None)
    kept = form_of(Account).dump(account)

    other = Account(uuid4())
    form_of(Account).restore(other, kept, 1)

    assert kept == '{"state":{"cents":1}}'
    assert (other.state, other.version) == (Balance(1), 1)


class Animal(ValueObject):
    name: str


class Dog(Animal):
    tricks: int


class Zoo(Aggregate, snapshots=every(1)):
    animal: Animal | None = None
    anything: Any = None
    counts: dict[str, int] = state(dict)
    number: int = 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("animal", Dog(name="rex", tricks=3)),
        ("anything", datetime(2026, 1, 2, tzinfo=UTC)),
        ("anything", (1, 2)),
        ("counts", defaultdict(int, a=1)),
        ("number", "1"),
        ("number", None),
        ("number", True),
    ],
)
def test_a_state_that_would_not_come_back_as_it_is_is_refused(name: str, value: object) -> None:
    zoo = Zoo(uuid4())
    setattr(zoo, name, value)
    with pytest.raises(ValueError, match=rf"Zoo\.{name} would not come back") as caught:
        form_of(Zoo).dump(zoo)
    assert "rex" not in str(caught.value)


def test_a_field_that_is_set_and_not_declared_is_refused() -> None:
    zoo = Zoo(uuid4())
    zoo.keeper = "ada"  # type: ignore[attr-defined]  # the fault under test
    with pytest.raises(ValueError, match=r"Zoo\.keeper is set and not declared"):
        form_of(Zoo).dump(zoo)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    zoo = Zoo(uuid4())
    with pytest.raises(ValueError, match="number"):
        form_of(Zoo).restore(zoo, '{"anything":1,"number":"many"}', 7)
    assert (zoo.anything, zoo.number, zoo.version) == (None, 0, 0)


BANK = '''
from dataclasses import dataclass
from decimal import Decimal
from functools import partial, wraps
from cqrs_fastapi import Aggregate, Event, ValueObject, applies, event, every, state

FEE = 1
NAMES = {"b", "a", "c"}

def fee_of(amount):
    return min(amount, FEE)

def traced(method):
    @wraps(method)
    def call(self, event: Deposited) -> None:
        return method(self, event)
    return call

class Money(ValueObject):
    cents: int

    def plus(self, other):
        return Money(cents=self.cents + other)

class Deposited(Event, name="deposited", version=1):
    cents: int

@event(name="closed")
@dataclass(frozen=True)
class Closed:
    reason: str = "none"

    @property
    def told(self):
        return self.reason.upper()

class Base(Aggregate):
    def helped(self, amount, by=1):
        return amount * by

class Account(Base, snapshots=every(10)):
    RATE: "ClassVar[int]" = 2
    money: Money = Money(cents=0)
    names: set[str] = state(lambda: set(NAMES))
    reason: str = ""

    @applies
    def on_deposited(self, event: Deposited) -> None:
        """Adds."""
        self.money = self.money.plus(self.helped(event.cents) * self.RATE - fee_of(event.cents))

    @applies
    def on_closed(self, event: Closed) -> None:
        if event.reason in {"x", "y", "z"}:
            self.reason = [part + "!" for part in (event.told,)][0]
'''.replace("from functools", "from typing import ClassVar\nfrom functools")


@contextmanager
def module_of(source: str) -> Iterator[ModuleType]:
    module = ModuleType("bank")
    sys.modules["bank"] = module
    try:
        exec(compile(source, "bank.py", "exec", dont_inherit=True), vars(module))  # noqa: S102  # written above
        yield module
    finally:
        del sys.modules["bank"]


def fingerprint(source: str) -> str:
    with module_of(source) as module:
        return form_of(module.Account).fingerprint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fee_of(event.cents))", "fee_of(event.cents) + 1)"),  # a fold
        ("event.cents) * self.RATE", "event.cents) + self.RATE"),
        ('part + "!"', 'part + "?"'),  # a function in a fold
        ('{"x", "y", "z"}', '{"x", "y"}'),
        ("amount * by", "amount - by"),  # an inherited method
        ("by=1", "by=2"),  # a default
        ('[int]" = 2', '[int]" = 3'),  # a constant of the class
        ("Money(cents=0)", "Money(cents=1)"),  # a start value
        ("set(NAMES)", "set()"),
        ("min(amount", "max(amount"),  # a function of the module
        ("FEE = 1", "FEE = 2"),  # a constant of the module
        ('{"b", "a", "c"}', '{"b", "a"}'),
        ("self.cents + other", "self.cents - other"),  # a method of a value
        ("reason.upper()", "reason.lower()"),  # a property of an event
        ("version=1", "version=2"),
        ('name="deposited"', 'name="paid"'),
        ("version=1):\n    cents: int", "version=1):\n    cents: float"),  # the schema of an event
        ('reason: str = ""', 'reason: str | None = ""'),  # the schema of the state
        ("    @applies\n    def on_deposited", "    @applies\n    @traced\n    def on_deposited"),  # a wrapper
    ],
)
def test_the_fingerprint_changes_with_what_a_fold_may_depend_on(old: str, new: str) -> None:
    assert BANK.count(old) == 1
    assert fingerprint(BANK.replace(old, new)) != fingerprint(BANK)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FEE = 1", "# a remark\n\n\nFEE = 1"),
        ("every(10)", "every(20)"),
        ("class Base", "class Unused:\n    value = 1\n\nclass Base"),
    ],
)
def test_the_fingerprint_stays_with_what_no_fold_depends_on(old: str, new: str) -> None:
    assert fingerprint(BANK.replace(old, new)) == fingerprint(BANK)


def test_the_fingerprint_of_a_wrapped_fold_sees_the_fold() -> None:
    wrapped = BANK.replace("    @applies\n    def on_deposited", "    @applies\n    @traced\n    def on_deposited")
    assert fingerprint(wrapped.replace("event.cents) * self", "event.cents) + self")) != fingerprint(wrapped)


def test_the_fingerprint_stays_when_the_folds_have_run_often() -> None:
    """Python rewrites the bytecode of what runs often."""
    expected = fingerprint(BANK)
    with module_of(BANK) as module:
        account = module.Account(uuid4())
        account.replay([module.Deposited(cents=3), module.Closed("x")] * 500, 1_000)
        assert form_of(module.Account).fingerprint == expected


def test_the_fingerprint_of_a_decider_sees_evolve_and_its_first_state() -> None:
    source = """
from dataclasses import dataclass, replace
from cqrs_fastapi import Decider, Event, every

class Deposited(Event):
    cents: int

@dataclass(frozen=True)
class Balance:
    cents: int = 0

class Account(Decider[Balance], snapshots=every(2)):
    initial = Balance(5)

    @staticmethod
    def decide(state, command):
        return []

    @staticmethod
    def evolve(state: Balance, event: Deposited) -> Balance:
        return replace(state, cents=state.cents + event.cents)
"""
    changed = [source.replace(".cents + event", ".cents - event"), source.replace("Balance(5)", "Balance(6)")]
    assert len({fingerprint(one) for one in (source, *changed)}) == 3


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_fingerprint_is_the_same_in_each_process(seed: str, tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(BANK)
    program = "import bank; print(bank.Account.__snapshots__.fingerprint)"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.strip() == fingerprint(BANK)


def test_the_fingerprint_counts_what_upcasters_make_of_stored_events() -> None:
    @upcasts("Old", version=1)
    def as_it_was(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "amount": 1}

    @upcasts("Old", version=1)
    def otherwise(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "amount": 2}

    class Old(Event, version=2):
        amount: int

    def fingerprint(*functions: Any) -> str:
        registry = EventRegistry([Old], [mark for function in functions for mark in function.__upcasts__])
        return form_of(Document).fingerprint_in(registry)

    assert fingerprint() == form_of(Document).fingerprint
    assert len({fingerprint(), fingerprint(as_it_was), fingerprint(otherwise)}) == 3
    assert fingerprint(otherwise) == fingerprint(otherwise)
