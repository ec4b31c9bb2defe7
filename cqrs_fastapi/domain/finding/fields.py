"""Fields that root entities are found and ordered by. Comparing one gives a Condition."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Generic, NoReturn, TypeVar
from uuid import UUID

from cqrs_fastapi.domain.finding.annotations import Shape, shape_of, shapes_below
from cqrs_fastapi.domain.finding.conditions import Comparison, Condition, Operator
from cqrs_fastapi.domain.finding.kinds import IDENTITY, INT, MOMENT, TEXT, Comparable, Kind, comparable, json_form
from cqrs_fastapi.domain.finding.ordering import Ordering, Step
from cqrs_fastapi.domain.finding.places import Place
from cqrs_fastapi.domain.finding.texts import SearchError, parsed

T = TypeVar("T")

MOST_VALUES = 100_000
"""Values that a field may be one of."""
_LARGEST_VERSION = (1 << 63) - 1


class Field(Generic[T]):
    """`<`, `<=`, `>`, `>=`, `==` and `!=` take a value of the field's type, or None for the last two. A field of a
    value that the entity holds is an attribute: `Product.address.city`.

    Whatever is wrong with a value is an error when the condition is made: TypeError for another type, SearchError for a
    value that cannot be searched.
    """

    __slots__ = ("_is_column", "_path", "_shape")

    def __init__(self, path: tuple[str, ...], shape: Shape, *, is_column: bool = False) -> None:
        self._path, self._shape, self._is_column = path, shape, is_column
        Place(path, INT.form)  # refuses a path that is none

    def __lt__(self, value: T) -> Condition:
        return self._compared(Operator.LESS, value)

    def __le__(self, value: T) -> Condition:
        return self._compared(Operator.AT_MOST, value)

    def __gt__(self, value: T) -> Condition:
        return self._compared(Operator.GREATER, value)

    def __ge__(self, value: T) -> Condition:
        return self._compared(Operator.AT_LEAST, value)

    def __eq__(self, value: T | None) -> Condition:  # type: ignore[override]  # it says what is looked for
        return self._compared(Operator.EQUAL, value)

    def __ne__(self, value: T | None) -> Condition:  # type: ignore[override]  # see __eq__
        return self._compared(Operator.UNEQUAL, value)

    def is_in(self, values: Iterable[T | None]) -> Condition:
        """One of at most 100,000 values; never true if there are none."""
        if isinstance(values, str | bytes):
            raise TypeError(f"{self}.is_in takes several values; write [{values!r}] for one")
        kind = self._kind()
        wanted = frozenset(None if value is None else self._value(kind, value) for value in values)
        if len(wanted) > MOST_VALUES:
            raise SearchError(f"{self}.is_in has {len(wanted)} values, the limit is {MOST_VALUES}")
        return Comparison(self._place(kind), Operator.IN, wanted) if wanted else Condition.FALSE

    def like(self, pattern: str) -> Condition:
        r"""The whole text, where `%` is any text, `_` one character, and `\` makes the next character an ordinary one.

        Upper and lower case differ.
        """
        kind = self._kind()
        if kind is not TEXT:
            raise TypeError(f"{self} holds {kind.name}; like searches texts only")
        if not isinstance(pattern, str):
            raise TypeError(f"{self}.like takes a pattern that is a str, not {pattern!r}")
        return Comparison(self._place(kind), Operator.LIKE, parsed(pattern))

    def ascending(self) -> Ordering:
        """The least first; null last."""
        return Ordering((Step(self._place(self._kind())),))

    def descending(self) -> Ordering:
        """The greatest first; null last."""
        return Ordering((Step(self._place(self._kind()), descending=True),))

    def nested(self, name: str) -> Field[Any]:
        """The field of this name in the value that the field holds, even if a field's own method is called so."""
        below = {} if self._shape.model is None else shapes_below(self._shape.model)
        shape = below.get(name)
        if shape is None:
            raise AttributeError(f"{self} has no field {name!r}; it has {', '.join(below) or 'no fields'}")
        if self._shape.unsearchable is not None and self._shape.is_closed:
            shape = shape.closed(self._shape.unsearchable)
        return Field((*self._path, name), shape)

    def searched_as(self) -> Shape:
        """What its type means to a search."""
        return self._shape

    def unsearchable(self, reason: str) -> Field[T]:
        """The same field, and those below it, which no condition and no ordering may name: a TypeError with the reason
        when one is made. `reason` completes the sentence "Product.name cannot be searched: ...".
        """
        return Field(self._path, self._shape.closed(reason), is_column=self._is_column)

    def __getattr__(self, name: str) -> Field[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.nested(name)

    def __str__(self) -> str:
        return ".".join(self._path)

    def __repr__(self) -> str:
        return f"<Field {self}>"

    def __bool__(self) -> NoReturn:
        raise TypeError(f"the field {self} is neither true nor false; compare it with a value: field == True")

    def __hash__(self) -> NoReturn:  # its equality says what is looked for
        raise TypeError(f"the field {self} is no key; write str(field)")

    def _without_parentheses(self, *_: object) -> NoReturn:
        raise TypeError(
            f"the field {self} stands next to &, | or ~; put parentheses around each comparison: "
            f"({self} == value) & (...)"
        )

    __and__ = __rand__ = __or__ = __ror__ = __invert__ = _without_parentheses

    def __iter__(self) -> NoReturn:
        raise TypeError(f"the field {self} holds no values; give it to find in a condition")

    def _compared(self, operator: Operator, value: object) -> Condition:
        kind = self._kind()
        if value is None:
            if operator not in (Operator.EQUAL, Operator.UNEQUAL):
                raise TypeError(f"{self} {operator.value} None has no meaning; write == None or != None")
            return Comparison(self._place(kind), operator, None)
        return Comparison(self._place(kind), operator, self._value(kind, value))

    def _value(self, kind: Kind, value: object) -> Comparable:
        if isinstance(value, Field):
            raise TypeError(f"{self} is compared with the field {value}; two fields cannot be compared, write a value")
        try:
            compared = comparable(kind.form, json_form(kind, value))
        except TypeError as error:
            raise TypeError(f"{self}: {error}") from None
        except SearchError as error:
            raise SearchError(f"{self}: {error}") from None
        assert compared is not None  # noqa: S101  # for the checker: what a kind renders has its form
        if self._is_column and self._path == ("version",) and abs(int(compared)) > _LARGEST_VERSION:
            raise SearchError(f"{self}: no version is so large")
        return compared

    def _place(self, kind: Kind) -> Place:
        return Place(self._path, kind.form, self._is_column)

    def _kind(self) -> Kind:
        if self._shape.kind is None or self._shape.unsearchable is not None:
            raise TypeError(f"{self} cannot be searched: {self._shape.unsearchable}")
        return self._shape.kind


def field_of(name: str, annotation: object) -> Field[Any]:
    """The field that a root entity declares as `name: annotation`. TypeError for what is no name.

    A type that cannot be compared makes a field that no condition may name: the TypeError comes when one is made.
    """
    return Field((name,), shape_of(annotation))


ID_FIELD: Final[Field[UUID]] = Field(("id",), Shape(kind=IDENTITY), is_column=True)
VERSION_FIELD: Final[Field[int]] = Field(("version",), Shape(kind=INT), is_column=True)
CREATED_AT_FIELD: Final[Field[datetime]] = Field(("created_at",), Shape(kind=MOMENT), is_column=True)
UPDATED_AT_FIELD: Final[Field[datetime]] = Field(("updated_at",), Shape(kind=MOMENT), is_column=True)
