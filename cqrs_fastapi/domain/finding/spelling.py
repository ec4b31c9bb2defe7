"""How the two databases read a value out of a state and compare it. A value of another form than declared is null."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Numeric,
    Text,
    all_,
    and_,
    any_,
    case,
    collate,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy import cast as sql_cast

from cqrs_fastapi.domain.finding.kinds import NUMBERS, Comparable, Form
from cqrs_fastapi.domain.finding.places import Place, column_value
from cqrs_fastapi.domain.finding.texts import Pattern
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.messages.json_codec import render_json
from cqrs_fastapi.storage.column_types import utc_text
from cqrs_fastapi.storage.sortable_numbers import FUNCTION, LONGEST, NUMBER, sortable
from cqrs_fastapi.storage.tables import Tables

Truth = ColumnElement[bool]
_OLDEST_SQLITE = (3, 38)
"""The first with `->`, which gives a number as it is written."""


class Spelling(Protocol):
    """One database's. `stored` is what is compared of a row, or null; all other methods take it back."""

    def stored(self, place: Place) -> ColumnElement[Any]: ...
    def value(self, place: Place, value: Comparable) -> ColumnElement[Any]: ...
    def one_of(self, place: Place, stored: ColumnElement[Any], values: Sequence[Comparable]) -> Truth: ...
    def none_of(self, place: Place, stored: ColumnElement[Any], values: Sequence[Comparable]) -> Truth: ...
    def like(self, stored: ColumnElement[Any], pattern: Pattern) -> Truth: ...


@lru_cache(maxsize=16)
def spelling_of(dialect: str, tables: Tables) -> Spelling:
    """Kept for the tables, with the expressions that it has made."""
    return _Postgres(tables) if dialect == "postgresql" else _Sqlite(tables)


class _Kept:
    """Makes the expression of a place once."""

    def __init__(self, tables: Tables) -> None:
        self._columns = tables.root_states.c
        self.stored = lru_cache(maxsize=1024)(self._stored)

    def _stored(self, place: Place) -> ColumnElement[Any]:
        return self._columns[place.path[0]] if place.is_column else self._in_state(place)

    def _in_state(self, place: Place) -> ColumnElement[Any]:
        raise NotImplementedError

    def _of_column(self, place: Place, value: Comparable) -> ColumnElement[Any]:
        return literal(column_value(place, value), self._columns[place.path[0]].type)


class _Postgres(_Kept):
    """Texts by code point, which is the order of their bytes in UTF-8; numbers as `numeric`; many values in arrays."""

    def _in_state(self, place: Place) -> ColumnElement[Any]:
        # Each name in quotes: a bare null would be no name.
        path: ColumnElement[str] = literal_column("'{" + ",".join(f'"{name}"' for name in place.path) + "}'")
        kind = func.jsonb_typeof(self._columns.state.op("#>")(path))
        text = self._columns.state.op("#>>", return_type=Text())(path)
        number = sql_cast(text, Numeric)
        match place.form:
            case Form.NUMBER:
                return case((kind == _quoted("number"), number))
            case Form.DECIMAL:
                is_number = text.op("~")(_quoted(f"^{NUMBER}$"))
                fits = func.length(text) <= literal_column(str(LONGEST))
                return case((and_(kind.in_([_quoted("number"), _quoted("string")]), fits, is_number), number))
            case Form.TRUTH:
                return collate(case((kind == _quoted("boolean"), text)), "C")
            case Form.TEXT:
                return collate(case((kind == _quoted("string"), text)), "C")

    def value(self, place: Place, value: Comparable) -> ColumnElement[Any]:
        if place.is_column:
            return self._of_column(place, value)
        return literal(value, Numeric() if place.form in NUMBERS else Text())

    def one_of(self, place: Place, stored: ColumnElement[Any], values: Sequence[Comparable]) -> Truth:
        return stored == any_(self._array(place, values))

    def none_of(self, place: Place, stored: ColumnElement[Any], values: Sequence[Comparable]) -> Truth:
        return stored != all_(self._array(place, values))

    def like(self, stored: ColumnElement[Any], pattern: Pattern) -> Truth:
        return stored.like(literal(pattern.as_like(), Text()))

    def _array(self, place: Place, values: Sequence[Comparable]) -> ColumnElement[Any]:
        if place.is_column:
            of_column = [column_value(place, value) for value in values]
            return literal(of_column, ARRAY(self._columns[place.path[0]].type))
        return literal(list(values), ARRAY(Numeric() if place.form in NUMBERS else Text()))


class _Sqlite(_Kept):
    """Texts by their bytes in UTF-8; numbers as sortable texts, since 64 bits are not enough; many values as JSON."""

    def __init__(self, tables: Tables) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigurationError(
                f"root entities are searched on SQLite 3.38 or newer, this Python has {sqlite3.sqlite_version}; "
                f"use a newer one, or PostgreSQL"
            )
        super().__init__(tables)

    def _in_state(self, place: Place) -> ColumnElement[Any]:
        path: ColumnElement[str] = literal_column("'$" + "".join(f'."{name}"' for name in place.path) + "'")
        state = self._columns.state
        kind = func.json_type(state, path)
        number = getattr(func, FUNCTION)(state.op("->")(path), type_=Text())
        match place.form:
            case Form.NUMBER:
                return case((kind.in_([_quoted("integer"), _quoted("real")]), number))
            case Form.DECIMAL:
                return case((kind.in_([_quoted("integer"), _quoted("real"), _quoted("text")]), number))
            case Form.TRUTH:
                return case((kind.in_([_quoted("true"), _quoted("false")]), kind))
            case Form.TEXT:
                return case((kind == _quoted("text"), func.json_extract(state, path, type_=Text())))

    def value(self, place: Place, value: Comparable) -> ColumnElement[Any]:
        return self._of_column(place, value) if place.is_column else literal(_sqlite_text(value), Text())

    def one_of(self, place: Place, stored: ColumnElement[Any], values: Sequence[Comparable]) -> Truth:
        return stored.in_(self._list(place, values))

    def none_of(self, place: Place, stored: ColumnElement[Any], values: Sequence[Comparable]) -> Truth:
        return stored.not_in(self._list(place, values))

    def like(self, stored: ColumnElement[Any], pattern: Pattern) -> Truth:
        return stored.op("GLOB", is_comparison=True)(literal(pattern.as_glob(), Text()))

    def _list(self, place: Place, values: Sequence[Comparable]) -> Any:
        plain = [
            _sqlite_column(column_value(place, value)) if place.is_column else _sqlite_text(value) for value in values
        ]
        return select(func.json_each(literal(render_json(plain), Text())).table_valued("value").c.value)


def _quoted(constant: str) -> ColumnElement[str]:
    """A constant of ours in the statement itself: an index is found by it."""
    return literal_column(f"'{constant}'", Text())


def _sqlite_text(value: Comparable) -> str:
    return value if isinstance(value, str) else sortable(value)


def _sqlite_column(value: UUID | int | datetime) -> str | int:
    """As the column types of SQLite write it."""
    if isinstance(value, UUID):
        return value.hex
    return utc_text(value) if isinstance(value, datetime) else value
