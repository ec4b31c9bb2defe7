"""The schema lockfile, and what a change of an event does to those who read it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from cqrs_fastapi import ConfigurationError, Entity, EntitySet, Event, Upcast, event, upcasts
from cqrs_fastapi.catalogue.check import breaks, not_locked
from cqrs_fastapi.catalogue.compatibility import lost, unreadable
from cqrs_fastapi.catalogue.lockfile import LockedEvent, LockedVersion, Lockfile, parsed, read, rendered, write
from cqrs_fastapi.catalogue.schemas import schema_read, schema_written
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.messages.upcasters import UpcasterMap


def made(_name: str = "thing", _version: int = 1, _topic: str | None = None, **fields: Any) -> type[Event]:
    """An event class with these fields: a type, or a type with its default."""
    given: Any = {name: one if isinstance(one, tuple) else (one, ...) for name, one in fields.items()}
    kwargs: Any = {"name": _name, "version": _version, "topic": _topic}
    return create_model("Thing", __base__=Event, __cls_kwargs__=kwargs, **given)


def registry(*classes: type[Any], upcasters: Iterable[Any] = ()) -> EventRegistry:
    included = UpcasterMap()
    included.include(*upcasters)
    return EventRegistry(classes, included.upcasters())


def locked(*classes: type[Any]) -> Lockfile:
    """After each of these versions of the code was locked, one after the other."""
    file = Lockfile()
    for one in classes:
        file = file.with_code(registry(one))
    return file


def broken(before: type[Any], after: type[Any]) -> list[str]:
    return breaks(locked(before), registry(after))


def reasons(before: type[Any], after: type[Any]) -> list[str]:
    """What the sentence says in its parentheses."""
    found = broken(before, after)
    return [] if not found else [one.partition(" (")[2].partition("); ")[0] for one in found]


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Line(Entity):
    text: str


class Inner(BaseModel):
    a: int
    b: str = ""


class Strict(BaseModel, extra="forbid"):
    a: int


class Tree(BaseModel):
    leaves: list[Tree] = []


EVERYTHING: dict[str, Any] = {
    "a_int": int,
    "a_float": float,
    "a_decimal": Decimal,
    "a_str": Annotated[str, Field(min_length=1, pattern="^a")],
    "a_bool": bool,
    "a_date": date,
    "a_moment": datetime,
    "a_uuid": UUID,
    "a_size": Size,
    "a_word": Literal["x", "y"],
    "a_list": list[Inner],
    "a_pair": tuple[int, str],
    "a_map": dict[str, Inner],
    "a_set": frozenset[int],
    "lines": EntitySet[Line],
    "a_tree": Tree,
    "maybe": Optional[Inner],  # noqa: UP045  # the older form is in use, too
    "either": int | list[str],
    "bytes": bytes,
    "strict": Strict,
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_an_unchanged_event_can_be_read_and_its_consumers_miss_nothing(name: str) -> None:
    thing = made(_topic="things", **{name: EVERYTHING[name]})
    assert broken(thing, thing) == []
    assert not_locked(locked(thing), registry(thing)) == []


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_new_field_with_a_default_breaks_nobody(name: str) -> None:
    before = made(_topic="things", **{name: EVERYTHING[name]})
    after = made(_topic="things", **{name: EVERYTHING[name], "more": (int, 0)})
    assert broken(before, after) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": int}, {"a": int, "b": int}, "b: is missing"),
        ({"a": int}, {"a": str}, "a: integer where string is read"),
        ({"a": float}, {"a": int}, "a: number where integer is read"),
        ({"a": int | None}, {"a": int}, "a: null where integer is read"),
        ({"a": int | str}, {"a": int}, "a: string where integer is read"),
        ({"a": str}, {"a": UUID}, "a: no format where format uuid is read"),
        ({"a": str}, {"a": Annotated[str, Field(max_length=3)]}, "a: no maxLength where maxLength 3 is read"),
        ({"a": str}, {"a": Annotated[str, Field(min_length=1)]}, "a: no minLength where minLength 1 is read"),
        (
            {"a": Annotated[int, Field(ge=0)]},
            {"a": Annotated[int, Field(ge=1)]},
            "a: minimum 0 where minimum 1 is read",
        ),
        ({"a": Literal["x", "y"]}, {"a": Literal["x"]}, "a: a value that is none of ['x']"),
        ({"a": str}, {"a": Size}, "a: a value that is none of ['s', 'l']"),
        ({"a": list[int]}, {"a": list[str]}, "a[]: integer where string is read"),
        ({"a": tuple[int, str]}, {"a": tuple[int, int]}, "a[1]: string where integer is read"),
        ({"a": tuple[int, str]}, {"a": tuple[int]}, "a: maxItems 2 where maxItems 1 is read"),
        ({"a": dict[str, int]}, {"a": dict[str, str]}, "a.*: integer where string is read"),
        ({"a": Any}, {"a": int}, "a: anything where integer is read"),
        ({"a": Inner}, {"a": Strict}, "a.b: is refused"),
        ({"a": Inner}, {"a": create_model("Inner", a=int, b=str, c=int)}, "a.c: is missing"),
        ({"a": list[Inner]}, {"a": list[create_model("Inner", a=str)]}, "a[].a: integer where string is read"),  # type: ignore[misc]  # a type made here
    ],
)
def test_what_stored_data_might_not_pass_is_named_with_its_place(
    before: dict[str, Any], after: dict[str, Any], told: str
) -> None:
    assert reasons(made(**before), made(**after)) == [told]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": int, "b": str}, {"a": int}),
        ({"a": int}, {"a": float}),
        ({"a": int}, {"a": int | None}),
        ({"a": int}, {"a": int, "b": (int, 1)}),
        ({"a": (int, 1)}, {"a": int}),
        ({"a": Annotated[str, Field(max_length=3)]}, {"a": str}),
        ({"a": Literal["x"]}, {"a": Literal["x", "y"]}),
        ({"a": Literal["x"]}, {"a": str}),
        ({"a": Size}, {"a": str}),
        ({"a": Inner}, {"a": create_model("Other", a=int)}),
        ({"a": int}, {"a": Any}),
        ({"a": Tree}, {"a": Tree, "b": (int, 1)}),
    ],
)
def test_what_only_an_own_reader_sees_may_change_where_it_reads_more(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert broken(made(**before), made(**after)) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": int, "b": str}, {"a": int}, "b: is missing"),
        ({"a": int}, {"a": float}, "a: number where integer is read"),
        ({"a": int}, {"a": int | None}, "a: null where integer is read"),
        ({"a": Literal["x"]}, {"a": Literal["x", "y"]}, "a: a value that is none of ['x']"),
        ({"a": Inner}, {"a": create_model("Inner", a=int)}, "a.b: is missing"),
    ],
)
def test_consumers_of_a_topic_need_what_they_had(before: dict[str, Any], after: dict[str, Any], told: str) -> None:
    [sentence] = broken(made(_topic="things", **before), made(_topic="things", **after))
    assert sentence == (
        f"consumers of the topic 'things' would break on 'thing' version 1 ({told}); keep it as it was, or give the "
        f"event version 2 and let its consumers learn it first"
    )


def test_a_default_takes_nothing_from_consumers_since_it_is_written_too() -> None:
    assert broken(made(_topic="things", a=int), made(_topic="things", a=(int, 1))) == []


def test_another_topic_or_none_breaks_the_consumers() -> None:
    assert reasons(made(_topic="things", a=int), made(_topic="others", a=int)) == ["it is sent to 'others' now"]
    assert reasons(made(_topic="things", a=int), made(a=int)) == ["it is sent nowhere now"]
    assert broken(made(a=int), made(_topic="things", a=int)) == []


def test_a_field_that_came_later_is_not_in_all_that_was_stored() -> None:
    first, second, third = made(a=int), made(a=int, b=(int, 0)), made(a=int, b=int)
    [sentence] = breaks(locked(first, second), registry(third))
    assert sentence == (
        "Thing may not read what is stored as 'thing' version 1 (b: is missing); give the class version 2 and write "
        "@upcasts('thing', version=1)"
    )


@event(name="plain", topic="things")
@dataclass(frozen=True)
class Plain:
    a: int
    b: str = ""


@event(name="plain", topic="things")
@dataclass(frozen=True)
class Plainer:
    a: int


@event(name="struct", topic="things")
class Struct(msgspec.Struct, frozen=True):
    a: int
    inner: list[Plain] = []  # a struct copies it
    b: str = ""


@event(name="struct", topic="things")
class Smaller(msgspec.Struct, frozen=True):
    a: int
    inner: list[Plain] = []  # a struct copies it


def test_dataclasses_and_structs_are_compared_too() -> None:
    assert broken(Plain, Plain) == broken(Struct, Struct) == []
    assert reasons(Plain, Plainer) == ["b: is missing"]
    assert reasons(Struct, Smaller) == ["b: is missing"]


# Versions and names.


@upcasts("thing", version=1)
def to_second(data: dict[str, Any]) -> dict[str, Any]:
    return data


@upcasts("old", version=1, into=[("thing", 2)])
def renamed(data: dict[str, Any]) -> list[Upcast]:
    return [Upcast("thing", 2, data)]


def test_a_version_that_nothing_reads_any_more_is_told() -> None:
    [sentence] = breaks(locked(made(a=int)), registry(made(_version=2, a=int)))
    assert sentence == (
        "'thing' version 1 may be stored, and nothing reads it; register its class, keep the alias, or write "
        "@upcasts('thing', version=1)"
    )


def test_an_upcaster_or_a_second_class_reads_it() -> None:
    first, second = made(a=int), made(_version=2, b=str)
    assert breaks(locked(first), registry(second, upcasters=[to_second])) == []
    assert breaks(locked(first), registry(first, second)) == []
    assert breaks(locked(made("old", a=int)), registry(second, upcasters=[renamed])) == []


class Renamed(Event, name="new", aliases=("thing",)):
    a: int


class WithoutAlias(Event, name="new"):
    a: int


def test_a_former_name_must_stay_readable() -> None:
    before = locked(made(a=int), Renamed)
    assert breaks(before, registry(Renamed)) == []
    told = breaks(before, registry(WithoutAlias))
    assert [sentence.partition(" may be")[0] for sentence in told] == ["'thing' version 1", "'thing' version 1"]


def test_an_event_of_a_topic_that_is_called_otherwise_breaks_its_consumers() -> None:
    assert reasons(made(_topic="things", a=int), Renamed) == ["it is called 'new' there now; it is sent nowhere now"]


def test_what_the_code_stores_and_the_file_lacks_is_told() -> None:
    first, second = made(a=int), made(a=int, b=(int, 0))
    assert not_locked(locked(first), registry(second)) == ["'thing' version 1 is not locked as the code stores it now"]
    assert not_locked(locked(first), registry(first, made(_version=2, a=int))) == [
        "'thing' version 2 is not locked as the code stores it now"
    ]
    assert not_locked(locked(WithoutAlias), registry(Renamed)) == [
        "'new' has other former names than those that are locked"
    ]
    assert not_locked(locked(first, second), registry(second)) == []


def test_the_file_keeps_what_the_code_has_forgotten() -> None:
    file = locked(made(a=int), made("other", a=int), made(_version=2, b=int))
    assert sorted((name, version) for name, version, _ in file) == [("other", 1), ("thing", 1), ("thing", 2)]


def test_a_type_without_a_json_schema_is_told_with_its_event() -> None:
    class Odd(Event, name="odd", arbitrary_types_allowed=True):
        a: object = Field(default_factory=object)

    class Odder(Event, name="odder", arbitrary_types_allowed=True):
        a: Path.__class__

    assert schema_written(Odd)
    with pytest.raises(ConfigurationError, match=r"Odder \('odder'\) has a field that no JSON schema can be made of"):
        schema_written(Odder)


# The file.

names = st.text(min_size=1, max_size=8)
schemas = st.recursive(
    st.dictionaries(st.sampled_from(["type", "format"]), names, max_size=2),
    lambda inner: st.fixed_dictionaries({"properties": st.dictionaries(names, inner, max_size=3)}),
    max_leaves=5,
)
versions = st.builds(LockedVersion, st.none() | names, st.lists(schemas, min_size=1, max_size=2).map(tuple))
events = st.builds(LockedEvent, st.frozensets(names, max_size=2), st.dictionaries(st.integers(1, 99999), versions))
files = st.builds(Lockfile, st.dictionaries(names, events, max_size=3))


@given(files)
def test_a_file_is_read_as_it_was_written(file: Lockfile) -> None:
    assert parsed(rendered(file)) == file


@given(files, st.randoms())
def test_the_text_does_not_depend_on_the_order_of_what_is_in_it(file: Lockfile, chance: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(key, shuffled(one)) for key, one in value.items()]
        chance.shuffle(items)
        return dict(items)

    mixed = json.dumps(shuffled(json.loads(rendered(file))))
    assert rendered(parsed(mixed)) == rendered(file)


def test_versions_are_in_the_order_of_their_numbers() -> None:
    file = locked(*(made(_version=version, a=int) for version in (10, 9, 2, 11)))
    assert list(json.loads(rendered(file))["events"]["thing"]["versions"]) == ["2", "9", "10", "11"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "schema.lock.json"
    assert read(path) is None
    for file in (locked(made(a=int)), locked(made(b=int))):
        write(path, file)
        assert read(path) == file
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", "{}", "<<<<<<< HEAD", '{"format": 2}', '{"format": 1, "events": {"a": 1}}'])
def test_what_is_no_such_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schema.lock.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=str(path)):
        read(path)


# The comparison against pydantic itself.

SIMPLE: list[Any] = [int, float, str, bool, None, UUID, date, Any, Literal["x"], Literal["x", "y"], Size]
LIMITED: list[Any] = [Annotated[int, Field(ge=0)], Annotated[str, Field(min_length=1)]]

field_types = st.recursive(
    st.sampled_from([*SIMPLE, *LIMITED]),
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),  # type: ignore[valid-type]  # a type made here
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]  # a type made here
        st.tuples(inner, inner).map(lambda two: two[0] | two[1] if two[0] not in (Any, None) else two[0]),
        st.tuples(inner, inner).map(lambda two: tuple[two[0], two[1]]),  # type: ignore[name-defined]  # a type made here
    ),
    max_leaves=4,
)
fields = st.dictionaries(st.sampled_from("ab"), st.tuples(field_types, st.booleans()), max_size=2)


def model(chosen: dict[str, tuple[Any, bool]]) -> type[Event]:
    given: dict[str, Any] = {}
    for name, (annotation, is_optional) in chosen.items():
        given[name] = (Optional[annotation], None) if is_optional else (annotation, ...)  # noqa: UP045  # of any type
    return made(**given)


VALUES: list[Any] = [0, -1, 7, 0.5, "", "x", "y", "s", "long text", True, None, "2026-01-01", str(UUID(int=1))]
json_values = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("k"), inner),
    max_leaves=4,
)


@given(fields, fields, st.lists(st.dictionaries(st.sampled_from("ab"), json_values), max_size=20))
def test_what_is_called_readable_is_read(
    before: dict[str, Any], after: dict[str, Any], candidates: list[dict[str, Any]]
) -> None:
    writer, reader = model(before), model(after)
    if unreadable(schema_written(writer), schema_read(reader), schema_written(reader)):
        return
    for candidate in candidates:
        try:
            stored = TypeAdapter(writer).validate_python(candidate).model_dump_json(warnings=False)
        except ValidationError:
            continue
        reader.model_validate_json(stored)


@given(fields)
def test_whatever_is_written_is_what_consumers_read(chosen: dict[str, Any]) -> None:
    schema = schema_written(model(chosen))
    assert lost(schema, schema) == []
