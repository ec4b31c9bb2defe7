"""Conditions as values: what they accept, what they mean, what is refused when they are made."""

from __future__ import annotations

import math
import operator
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID, uuid4

import pytest
from catalogue import (
    CATEGORY,
    CONDITIONS,
    NOW,
    ROWS,
    TENANT,
    TEXTS,
    Address,
    Colour,
    Product,
    field,
    patterns,
    rendered,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cqrs_fastapi import EntitySet, ValueObject
from cqrs_fastapi.domain.finding.annotations import shape_of
from cqrs_fastapi.domain.finding.conditions import MOST_COMPARISONS, MOST_NESTED, Condition
from cqrs_fastapi.domain.finding.fields import MOST_VALUES, field_of
from cqrs_fastapi.domain.finding.kinds import comparable, json_form
from cqrs_fastapi.domain.finding.memory import matches
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.rendering import DEEPEST, render_state
from cqrs_fastapi.domain.finding.search import Search
from cqrs_fastapi.domain.finding.texts import LONGEST_PATTERN, SearchError, parsed
from cqrs_fastapi.storage.sortable_numbers import number_of, sortable

TRUE, FALSE = Condition.TRUE, Condition.FALSE


def product(**values: Any) -> RootState:
    return RootState(uuid4(), 1, rendered(values), NOW, NOW)


@pytest.mark.parametrize(
    ("condition", "price", "expected"),
    [
        (Product.price < Decimal("1.2"), Decimal("1.10"), True),
        (Product.price < Decimal("1.1"), Decimal("1.10"), False),
        (Product.price <= Decimal("1.1"), Decimal("1.10"), True),
        (Product.price > 1, Decimal("1.10"), True),
        (Product.price >= Decimal("1.100"), Decimal("1.10"), True),
        (Product.price == Decimal("1.1"), Decimal("1.10"), True),
        (Product.price != Decimal("1.1"), Decimal("1.10"), False),
        (Product.price.is_in([1, Decimal("1.1")]), Decimal("1.10"), True),
        (Product.price.is_in([]), Decimal("1.10"), False),
        (Decimal(1) < Product.price, Decimal("1.10"), True),
        (Product.price < 10, Decimal(9), True),
    ],
)
def test_a_comparison_compares_values_and_not_how_they_are_written(
    condition: Condition, price: Decimal, expected: bool
) -> None:
    assert matches(condition, product(price=price)) is expected


@pytest.mark.parametrize("state", [product(), product(price=None)], ids=["missing", "null"])
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Product.price < 1, False),
        (Product.price <= 1, False),
        (Product.price > 1, False),
        (Product.price >= 1, False),
        (Product.price == 1, False),
        (Product.price != 1, False),
        (Product.price.is_in([1]), False),
        (Product.address.city.like("%"), False),
        (Product.price == None, True),  # noqa: E711  # how it is written
        (Product.price != None, False),  # noqa: E711  # how it is written
        (Product.price.is_in([None, 1]), True),
    ],
)
def test_null_is_in_no_comparison_but_with_none(condition: Condition, expected: bool, state: RootState) -> None:
    assert matches(condition, state) is expected
    assert matches(~condition, state) is not expected


@given(CONDITIONS, ROWS)
def test_not_is_the_exact_opposite(condition: Condition, state: RootState) -> None:
    assert matches(~condition, state) is not matches(condition, state)
    assert matches(~~condition, state) is matches(condition, state)


@given(st.lists(CONDITIONS, max_size=4), ROWS)
def test_and_and_or_are_those_of_logic(conditions: list[Condition], state: RootState) -> None:
    each = [matches(condition, state) for condition in conditions]
    assert matches(Condition.all_of(*conditions), state) is all(each)
    assert matches(Condition.any_of(*conditions), state) is any(each)


def test_what_does_not_matter_is_left_out() -> None:
    one, two = Product.price < 1, Product.price > 3
    assert Condition.all_of() == TRUE
    assert Condition.any_of() == FALSE
    assert (one & TRUE) == one
    assert (one | FALSE) == one
    assert (one & FALSE) == FALSE
    assert (one | TRUE) == TRUE
    assert ~TRUE == FALSE
    assert ((one & two) & one) == Condition.all_of(one, two, one)
    assert ~~one == one


def test_conditions_are_values() -> None:
    assert (Product.price < Decimal("1.1")) == (field_of("price", Decimal) < Decimal("1.10"))
    assert len({Product.price < 1, Product.price < 1, Product.price > 1}) == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda: bool(Product.price == 3),
        lambda: 1 < Product.price < 3,
        lambda: (Product.price > 1) and (Product.price < 3),
        lambda: not (Product.price > 1),
    ],
)
def test_a_condition_has_no_truth_value(ask: Any) -> None:
    with pytest.raises(TypeError, match=re.escape("write `(a) & (b)` for `a and b`")):
        ask()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Product.price < 10 & Product.name == "tea",
        lambda: (Product.price < 10) & Product.name == "tea",
        lambda: Product.name | (Product.price < 10) == 3,
        lambda: ~field("active"),
    ],
)
def test_forgotten_parentheses_are_told(ask: Any) -> None:
    with pytest.raises(TypeError, match=r"put parentheses around each comparison|is no condition; compare a field"):
        ask()


def test_a_field_is_no_truth_value_no_key_and_holds_no_values() -> None:
    with pytest.raises(TypeError, match="compare it with a value"):
        bool(field("active"))
    with pytest.raises(TypeError, match=re.escape("write str(field)")):
        {Product.price}  # noqa: B018  # it is made
    with pytest.raises(TypeError, match="holds no values"):
        list(Product.price)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Product.price < "1",
        lambda: Product.price < 1.5,
        lambda: Product.price < True,
        lambda: Product.price < None,
        lambda: Product.price == Product.name,
        lambda: Product.name == 1,
        lambda: Product.name == b"a",
        lambda: Product.name.is_in("abc"),
        lambda: Product.name.like(3),
        lambda: Product.price.like("1%"),
        lambda: field("active") == 1,
        lambda: Product.count == True,  # noqa: E712  # that is the case
        lambda: Product.count == 1.0,
        lambda: field("day") == datetime(2024, 5, 1, tzinfo=UTC),
        lambda: field("at") < date(2024, 5, 1),
        lambda: field("owner") == str(UUID(int=1)),
        lambda: field("colour") == "red",
        lambda: field_of("kind", Literal["a", "b"]) == "c",
        lambda: field("address") == Address(city="Kyiv"),
        lambda: field_of("tags", list[str]) == ["a"],
        lambda: (Product.price < 1) & True,
        lambda: Condition.all_of(Product.price),
    ],
)
def test_a_value_of_another_type_is_refused_when_the_condition_is_made(ask: Any) -> None:
    with pytest.raises(TypeError):
        ask()


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: Product.name == "a\0b", "name: a text holds the character NUL"),
        (lambda: Product.name.is_in(["\ud800"]), "half of a surrogate pair"),
        (lambda: Product.name.like("\0%"), "NUL"),
        (lambda: Product.name.like("a\\"), "ends with a single backslash"),
        (lambda: Product.name.like("a" * (LONGEST_PATTERN + 1)), "the limit is 1000"),
        (lambda: field("weight").is_in([math.nan]), "NaN and infinities"),
        (lambda: field("weight") < math.inf, "NaN and infinities"),
        (lambda: field("weight") < 10**400, "NaN and infinities"),
        (lambda: Product.price < Decimal("sNaN"), "NaN and infinities"),
        (lambda: Product.price < Decimal("1E+1000"), "more than 1000 digits"),
        (lambda: Product.price < Decimal("1E-1000"), "more than 1000 digits"),
        (lambda: Product.count < 10**1000, "more than 1000 digits"),
        (lambda: field("at") < datetime(2024, 5, 1), "has no time zone"),  # noqa: DTZ001
        (lambda: field("hour") < time(1, tzinfo=UTC), "time zone"),
        (lambda: field("lasts") < timedelta(days=36_501), "longer than 36500 days"),
        (lambda: Product.version < 1 << 63, "no version is so large"),
        (lambda: Product.name.is_in(map(str, range(MOST_VALUES + 1))), "the limit is 100000"),
    ],
)
def test_a_value_that_cannot_be_searched_is_refused_when_the_condition_is_made(ask: Any, told: str) -> None:
    with pytest.raises(SearchError, match=told):
        ask()


def test_a_condition_is_bounded() -> None:
    comparisons = [Product.name == str(number) for number in range(MOST_COMPARISONS)]
    Condition.any_of(*comparisons)
    with pytest.raises(SearchError, match=r"501 comparisons, the limit is 500.*is_in"):
        Condition.any_of(*comparisons, Product.price < 1)
    nested = Product.name == "a"
    with pytest.raises(SearchError, match="nested 33 deep"):
        for number in range(MOST_NESTED + 1):
            nested = (nested & (Product.price < number)) if number % 2 else (nested | (Product.price < number))


def test_fields_of_values_are_attributes() -> None:
    kyiv = product(address=Address(city="Kyiv", zip=1))
    assert matches(Product.address.city == "Kyiv", kyiv)
    assert not matches(Product.address.zip > 1, kyiv)
    assert str(Product.address.city) == "address.city"
    with pytest.raises(AttributeError, match=r"address has no field 'street'; it has city, zip, null"):
        _ = field("address").street


def test_a_field_that_is_called_like_a_method_is_found_by_nested() -> None:
    class Taste(ValueObject):
        like: str

    assert str(field_of("taste", Taste).nested("like")) == "taste.like"


def test_a_value_that_holds_itself_is_searched_as_deep_as_it_is_named() -> None:
    class Part(ValueObject):
        name: str
        inner: Part | None = None

    Part.model_rebuild(_types_namespace={"Part": Part})
    part = field_of("part", Part)
    state = render_state([part], {"part": {"name": "a", "inner": {"name": "b", "inner": None}}})
    assert matches(part.inner.name == "b", RootState(uuid4(), 1, state, NOW, NOW))


@pytest.mark.parametrize(
    "annotation",
    [
        *(bool, int, float, str, Decimal, datetime, date, time, timedelta, UUID, Colour),
        *(int | None, int | float, Annotated[int, "positive"], NewType("Cents", int), Literal["a"], Literal[1] | None),
    ],
    ids=str,
)
def test_a_type_that_can_be_compared(annotation: Any) -> None:
    field_of("it", annotation).ascending()


class Mixed(Enum):
    ONE = 1
    TWO = "two"


@pytest.mark.parametrize(
    "annotation",
    [list[int], dict[str, int], EntitySet[Any], bytes, object, Any, int | str, Mixed, Literal["a", 1], complex, None],
    ids=str,
)
def test_a_type_that_cannot_be_compared_is_told_when_it_is_searched(annotation: Any) -> None:
    one = field_of("it", annotation)
    with pytest.raises(TypeError, match=r"it cannot be searched: .*compared"):
        one.ascending()
    with pytest.raises(TypeError, match=r"it cannot be searched: .*compared"):
        one.is_in([])


@pytest.mark.parametrize("name", ["", "a b", "a'b", 'a"b', "a}", "a.b", "$", "1a", "a\n", "a\0", "a-b", "a,b"])
def test_what_is_no_name_is_no_field(name: str) -> None:
    with pytest.raises(TypeError, match="is no name of a field"):
        field_of(name, str)


@pytest.mark.parametrize(
    "ask",
    [
        lambda name: name == "a",
        lambda name: name.like("a%"),
        lambda name: name.is_in([]),
        lambda name: name.ascending(),
        lambda name: name.descending(),
        lambda name: name != None,  # noqa: E711  # how it is written
    ],
)
def test_an_unsearchable_field_says_why(ask: Any) -> None:
    with pytest.raises(TypeError, match="name cannot be searched: it is personal"):
        ask(Product.name.unsearchable("it is personal"))


def test_what_is_below_an_unsearchable_field_is_unsearchable() -> None:
    with pytest.raises(TypeError, match=r"address\.city cannot be searched: it is personal"):
        _ = field("address").unsearchable("it is personal").city == "Kyiv"


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2"])
def test_a_limit_is_a_number_of_entities(limit: Any) -> None:
    with pytest.raises(ValueError, match="write the number of entities"):
        Search(TENANT, CATEGORY, limit=limit)


def test_a_search_takes_conditions_and_orderings_only() -> None:
    with pytest.raises(TypeError, match="False is no condition"):
        Search(TENANT, CATEGORY, False)  # type: ignore[arg-type]  # that is the case
    with pytest.raises(TypeError, match="is no ordering"):
        Search(TENANT, CATEGORY, ordering="price")  # type: ignore[arg-type]  # that is the case


def as_regular_expression(pattern: str) -> str:
    pieces = re.findall(r"\\.|.", pattern, re.DOTALL)
    words = {"%": ".*", "_": "."}
    return "".join(words.get(piece) or re.escape(piece[-1]) for piece in pieces)


@given(patterns(), TEXTS)
def test_like_matches_what_a_regular_expression_would(pattern: str, text: str) -> None:
    expected = re.fullmatch(as_regular_expression(pattern), text, re.DOTALL) is not None
    assert parsed(pattern).matches(text) is expected


def test_like_takes_no_longer_for_a_pattern_of_many_wildcards() -> None:
    assert not parsed("%a" * 300 + "b").matches("a" * 20_000)


NUMBERS = st.one_of(st.integers(-(10**50), 10**50).map(Decimal), st.decimals(allow_nan=False, allow_infinity=False))


@given(NUMBERS, NUMBERS)
def test_sortable_texts_are_in_the_order_of_their_numbers(one: Decimal, other: Decimal) -> None:
    if number_of(str(one)) is None or number_of(str(other)) is None:
        return
    for compare in (operator.lt, operator.eq, operator.gt):
        assert compare(sortable(one), sortable(other)) is compare(one, other)


@pytest.mark.parametrize(
    "text", ["", "-", "NaN", "Infinity", "1_000", "0x1", " 1", "1\n", "\uff11", "1e1000", "9" * 2001]
)
def test_what_no_database_reads_as_a_number_is_none(text: str) -> None:
    assert number_of(text) is None


@given(ROWS)
def test_a_state_is_rendered_once_and_stays_the_same(row: RootState) -> None:
    fields = [field(name) for name in ("at", "hour", "lasts", "address", "price")]
    whole = {name: value for name, value in row.state.items() if not isinstance(value, list | bool)}
    try:
        first = render_state(fields, whole)
    except SearchError:
        return  # a value of another type, as older code has left it
    assert render_state(fields, first) == first


@given(st.timedeltas(timedelta(days=-36_500), timedelta(days=36_500)), st.datetimes(timezones=st.just(UTC)), st.times())
def test_what_is_rendered_in_a_form_of_its_own_is_read_again(lasts: timedelta, at: datetime, hour: time) -> None:
    for annotation, value in ((timedelta, lasts), (datetime, at), (time, hour)):
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        state = render_state([field_of("it", annotation)], {"it": adapter.dump_python(value, mode="json")})
        assert adapter.validate_python(state["it"]) == value


@given(st.sampled_from([timedelta, datetime, time, date, int, float, Decimal]), st.data())
def test_the_json_form_of_a_value_has_its_order(annotation: Any, data: st.DataObject) -> None:
    strategies: dict[Any, st.SearchStrategy[Any]] = {
        timedelta: st.timedeltas(timedelta(days=-36_500), timedelta(days=36_500)),
        datetime: st.datetimes(timezones=st.just(UTC)),
        time: st.times(),
        date: st.dates(),
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        Decimal: st.decimals(-(10**9), 10**9, allow_nan=False, places=6),
    }
    one, other = data.draw(strategies[annotation]), data.draw(strategies[annotation])
    kind = shape_of(annotation).kind
    assert kind is not None
    forms = [comparable(kind.form, json_form(kind, value)) for value in (one, other)]
    assert (forms[0] < forms[1]) is (one < other)
    assert (forms[0] == forms[1]) is (one == other)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"name": "a\0"}, "name cannot be stored: a text holds the character NUL"),
        ({"any": [{"\0": 1}]}, "NUL"),
        ({"any": ["\udfff"]}, "surrogate"),
        ({"any": [math.nan]}, "JSON has no NaN"),
        ({"any": 10**1100}, "at most 1,000 digits"),
        ({"any": deep(DEEPEST + 1)}, "nested deeper than 64"),
        ({"at": "2024-05-01T00:00:00"}, "has no time zone"),
        ({"at": "soon"}, "it is no datetime"),
    ],
)
def test_a_state_that_both_databases_cannot_hold_is_refused(state: dict[str, Any], told: str) -> None:
    with pytest.raises(SearchError, match=told):
        render_state([field("name"), field("at")], state)


def test_a_state_of_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="no JSON"):
        render_state([], {"at": NOW})
