"""Root entities to search for: their fields, random states of them, random conditions and orderings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from operator import eq, ge, gt, le, lt, ne
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from pydantic import TypeAdapter

from cqrs_fastapi import ValueObject, migrations
from cqrs_fastapi.domain.finding.conditions import Condition
from cqrs_fastapi.domain.finding.fields import (
    CREATED_AT_FIELD,
    ID_FIELD,
    UPDATED_AT_FIELD,
    VERSION_FIELD,
    Field,
    field_of,
)
from cqrs_fastapi.domain.finding.ordering import Ordering
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.rendering import render_state
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

TENANT, CATEGORY = "acme", "Product"


class Colour(Enum):
    RED = "red"
    GREEN = "Green"


class Size(IntEnum):
    SMALL = 1
    LARGE = 20


class Address(ValueObject):
    city: str | None = None
    zip: int | None = None
    null: Decimal | None = None
    """A name that SQL has a meaning for."""


ANNOTATIONS: Mapping[str, Any] = {
    "name": str | None,
    "größe": int | None,
    "price": Decimal | None,
    "weight": float | None,
    "active": bool | None,
    "at": datetime | None,
    "day": date | None,
    "hour": time | None,
    "lasts": timedelta | None,
    "owner": UUID | None,
    "colour": Colour | None,
    "size": Size | None,
    "address": Address | None,
}
ADAPTERS = {name: TypeAdapter(annotation) for name, annotation in ANNOTATIONS.items()}
FIELDS = {name: field_of(name, annotation) for name, annotation in ANNOTATIONS.items()}
NOW = datetime(2024, 5, 1, 7, 30, tzinfo=UTC)
ZONES = (UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-11)))

ALPHABET = "aAbBzZ %_\\*?[]'\"{}$.;é߀\uffff\U0001f600\U0010ffff\x01"
TEXTS = st.one_of(
    st.text(ALPHABET, max_size=6),
    st.sampled_from(["true", "null", "1", "1.0", "' OR 1=1 --", "{a,b}", "%", "\\", "a\nb", "\uff21"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)
INTS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 + 1, -(2**63), -(2**63) - 1, 10**40, 10**40 + 1]),
    st.integers(-(10**60), 10**60),
)
FLOATS = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 0.1, 0.1 + 0.2, 0.3, 1e22, 2.0**70, 5e-324, 1.7976931348623157e308, -1e-7, 9007199254740993.0]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
DECIMALS = st.one_of(
    st.sampled_from(
        [Decimal(text) for text in ("1.10", "1.1", "1.100", "-0", "0E-10", "1E+3", "1000", "-1.5", "-1.55", "9", "10")]
    ),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9),
    st.builds(lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(-99, 99), st.integers(-900, 900)),
)
MOMENTS = st.one_of(
    st.sampled_from([NOW, NOW + timedelta(microseconds=1), NOW.astimezone(ZONES[1])]),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.sampled_from(ZONES)),  # noqa: DTZ001
)
UUIDS = st.one_of(st.integers(0, 5).map(lambda number: UUID(int=number)), st.uuids())
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "name": TEXTS,
    "größe": INTS,
    "price": DECIMALS,
    "weight": FLOATS,
    "active": st.booleans(),
    "at": MOMENTS,
    "day": st.one_of(st.just(date(2024, 5, 1)), st.dates()),
    "hour": st.one_of(st.just(time(7, 30)), st.times()),
    "lasts": st.one_of(
        st.just(timedelta(seconds=-1.5)), st.timedeltas(timedelta(days=-36_500), timedelta(days=36_500))
    ),
    "owner": UUIDS,
    "colour": st.sampled_from(Colour),
    "size": st.sampled_from(Size),
    "address.city": TEXTS,
    "address.zip": INTS,
    "address.null": DECIMALS,
    "id": UUIDS,
    "version": st.integers(1, 4),
    "created_at": MOMENTS,
    "updated_at": MOMENTS,
}
OF_ROW = {"id": ID_FIELD, "version": VERSION_FIELD, "created_at": CREATED_AT_FIELD, "updated_at": UPDATED_AT_FIELD}


def field(path: str) -> Field[Any]:
    if path in OF_ROW:
        return OF_ROW[path]
    first, _, rest = path.partition(".")
    return FIELDS[first].nested(rest) if rest else FIELDS[first]


def rendered(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of Python's values, as a repository would do it."""
    dumped = {name: ADAPTERS[name].dump_python(value, mode="json") for name, value in values.items()}
    return render_state(FIELDS.values(), dumped)


class Product:
    """The fields as attributes, as a root entity has them."""

    id, version = ID_FIELD, VERSION_FIELD
    name, price, count, address = field("name"), field("price"), field("größe"), field("address")


ADDRESSES = st.one_of(
    st.none(),
    st.builds(Address, city=st.none() | TEXTS, zip=st.none() | INTS, null=st.none() | DECIMALS),
)
HOSTILE: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(
            st.none(), st.booleans(), st.just(7), st.just("7.0"), st.just([7]), st.just({"city": 3, "zip": "8"})
        )
        for name in ANNOTATIONS
    },
)
"""What older code may have left in a row: values of other types than declared."""
STATES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={name: ADDRESSES if name == "address" else st.none() | VALUES[name] for name in ANNOTATIONS},
    ).map(rendered),
    HOSTILE,
)
ROWS: st.SearchStrategy[RootState] = st.builds(
    lambda one, version, state, created_at, later: RootState(one, version, state, created_at, created_at + later),
    st.uuids(),
    VALUES["version"],
    STATES,
    st.one_of(st.just(NOW), st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))),  # noqa: DTZ001
    st.timedeltas(timedelta(0), timedelta(days=1)),
)


def patterns() -> st.SearchStrategy[str]:
    pieces = st.one_of(
        st.sampled_from(["%", "_", "\\%", "\\_", "\\\\", "\\a", "[", "]", "*", "?", "^"]),
        st.text(ALPHABET.replace("\\", ""), max_size=2),
    )
    return st.lists(pieces, max_size=5).map("".join)


ORDERED = (lt, le, gt, ge)
EQUAL = (eq, ne)


@st.composite
def comparisons(draw: st.DrawFn) -> Condition:
    path = draw(st.sampled_from(sorted(VALUES)))
    one, values = field(path), VALUES[path]
    operator = draw(st.sampled_from([*ORDERED, *EQUAL, "in", "in", "like"]))
    if operator == "like":
        return field(draw(st.sampled_from(["name", "address.city"]))).like(draw(patterns()))
    if operator == "in":
        return one.is_in(draw(st.lists(st.none() | values, max_size=5)))
    compared: Condition = operator(one, draw(values if operator in ORDERED else st.none() | values))
    return compared


CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(st.sampled_from([Condition.TRUE, Condition.FALSE]), comparisons(), comparisons(), comparisons()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: Condition.all_of(*parts)),
        st.lists(inner, max_size=3).map(lambda parts: Condition.any_of(*parts)),
        inner.map(lambda part: ~part),
    ),
    max_leaves=6,
)


@st.composite
def orderings(draw: st.DrawFn) -> Ordering:
    paths = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=3))
    return Ordering.by(
        *(field(path).descending() if draw(st.booleans()) else field(path).ascending() for path in paths)
    )


def ids(states: Sequence[RootState]) -> list[UUID]:
    return [state.id for state in states]


async def opened(url: str) -> Database:
    database = Database(Settings(database_url=url))
    await database.open()
    if database.dialect == "postgresql":
        await database.write(migrations.upgrade)
    return database
