"""Orderings, and the cursors of pages."""

from __future__ import annotations

import base64
import json
import re
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from catalogue import CATEGORY, CONDITIONS, NOW, ROWS, TENANT, Product, field, ids, orderings, rendered
from hypothesis import given
from hypothesis import strategies as st

from cqrs_fastapi.domain.finding.conditions import Condition
from cqrs_fastapi.domain.finding.keyset import CursorError, cursor_of
from cqrs_fastapi.domain.finding.memory import sort_key
from cqrs_fastapi.domain.finding.ordering import BY_ID, Ordering
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.search import Search, find_in, next_cursor


def products(*prices: Any) -> list[RootState]:
    """Their ids are 0, 1, 2 ..."""
    return [RootState(UUID(int=number), 1, rendered({"price": price}), NOW, NOW) for number, price in enumerate(prices)]


def found(states: list[RootState], ordering: Ordering) -> list[int]:
    return [state.id.int for state in find_in(Search(TENANT, CATEGORY, ordering=ordering), states)]


def test_null_is_last_in_either_direction() -> None:
    states = products(Decimal(3), None, Decimal("-1.5"), Decimal("-1.55"))
    assert found(states, Product.price.ascending()) == [3, 2, 0, 1]
    assert found(states, Product.price.descending()) == [0, 2, 3, 1]


def test_what_is_equal_is_in_the_order_of_ids() -> None:
    states = products(Decimal(1), Decimal("1.0"), Decimal(2), Decimal("1.00"))
    assert found(states[::-1], Product.price.ascending()) == [0, 1, 3, 2]
    assert found(states[::-1], Product.price.descending()) == [2, 0, 1, 3]
    assert found(states[::-1], Ordering.by(Product.price.ascending(), Product.id.descending())) == [3, 1, 0, 2]


def test_the_first_field_counts_most() -> None:
    ordering = Ordering.by(Product.price.descending(), Product.name.ascending())
    assert str(ordering) == "price descending, name ascending, id ascending"
    assert str(Ordering.by()) == "id ascending"


def test_a_field_stands_in_an_ordering_once() -> None:
    with pytest.raises(TypeError, match="names price twice"):
        Ordering.by(Product.price.descending(), Product.name.ascending(), Product.price.ascending())


def test_an_ordering_is_bounded() -> None:
    with pytest.raises(TypeError, match="has 9 fields, the limit is 8"):
        Ordering.by(*(field(name).ascending() for name in "name größe price weight active at day hour lasts".split()))  # noqa: SIM905


@given(orderings(), ROWS, ROWS)
def test_of_two_entities_one_is_first(ordering: Ordering, one: RootState, other: RootState) -> None:
    first, second = sort_key(ordering, one), sort_key(ordering, other)
    assert (first < second) is not (second < first) or one.id == other.id


@given(CONDITIONS, orderings(), st.lists(ROWS, max_size=12, unique_by=lambda row: row.id), st.integers(1, 4))
def test_the_pages_together_are_the_whole(
    condition: Condition, ordering: Ordering, rows: list[RootState], limit: int
) -> None:
    whole = find_in(Search(TENANT, CATEGORY, condition, ordering), rows)
    pages: list[RootState] = []
    cursor: str | None = None
    while True:
        search = Search(TENANT, CATEGORY, condition, ordering, limit, cursor)
        page = find_in(search, rows)
        pages += page
        cursor = next_cursor(search, page)
        if cursor is None:
            break
    assert ids(pages) == ids(whole)


def test_a_cursor_suits_a_url() -> None:
    assert re.fullmatch(r"[\w-]+", cursor_of(CATEGORY, Product.price.ascending(), products(Decimal(1))[0]))


def search_after(cursor: str, ordering: Ordering = BY_ID) -> Condition:
    return Search(TENANT, CATEGORY, ordering=ordering, after=cursor).whole_condition()


def test_a_cursor_of_another_search_is_told() -> None:
    (state,) = products(Decimal(1))
    for category, ordering in (
        (CATEGORY, Product.price.descending()),
        (CATEGORY, Product.name.ascending()),
        (CATEGORY, BY_ID),
        ("Customer", Product.price.ascending()),
    ):
        with pytest.raises(CursorError, match="this cursor is of another search than Product by price ascending"):
            search_after(cursor_of(category, ordering, state), Product.price.ascending())


@pytest.mark.parametrize(
    "cursor", ["", "a", "====", "AA", "é", "e30", "W10", "bnVsbA", "A" * 2_000_000, "[" * 5000, "\0"]
)
def test_what_is_no_cursor_is_told(cursor: str) -> None:
    with pytest.raises(CursorError, match="begin without"):
        search_after(cursor)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("price", 1),
        ("price", "NaN"),
        ("price", "1e9999"),
        ("price", "' OR 1=1"),
        ("price", ["1"]),
        ("name", "a\0"),
        ("name", {}),
        ("active", "maybe"),
        ("id", "1"),
        ("id", None),
        ("version", "99999999999999999999"),
        ("version", "1.5"),
        ("created_at", "yesterday"),
        ("created_at", "2024-05-01T00:00:00"),
        ("created_at", None),
    ],
)
def test_a_cursor_that_was_changed_is_told(path: str, value: object) -> None:
    ordering = field(path).ascending()
    cursor = cursor_of(CATEGORY, ordering, products(Decimal(1))[0])
    parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    parts[1] = value
    changed = base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")
    with pytest.raises(CursorError, match=f"it holds no value of {path}"):
        search_after(changed, ordering)


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_no_text_is_worse_than_an_error(cursor: str) -> None:
    with pytest.raises(CursorError):
        search_after(cursor)
