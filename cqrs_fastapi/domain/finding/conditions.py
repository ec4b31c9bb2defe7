"""What root entities must be like to be found. A condition is a value; it is made by comparing fields.

    Product.price < 10
    (Product.price < 10) & ~Product.name.like("%sample%")
    Condition.any_of(Product.sku.is_in(skus), Product.address.city == "Kyiv")

A condition is true or false of each root entity, never unknown. Every comparison with a field that is null or missing
is false, but for `== None`, which is true, and `is_in` with None among its values. `~` is the exact opposite of what
it stands before: `~(Product.price < 10)` is true where there is no price.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, NoReturn

from cqrs_fastapi.domain.finding.kinds import Comparable
from cqrs_fastapi.domain.finding.places import Place
from cqrs_fastapi.domain.finding.texts import Pattern, SearchError

MOST_COMPARISONS = 500
MOST_NESTED = 32


class Condition:
    """Combined by `&`, `|` and `~`, which stand for and, or, not; equal to another that says the same in one order."""

    __slots__ = ()

    TRUE: ClassVar[Condition]
    """True of every root entity."""
    FALSE: ClassVar[Condition]

    def __and__(self, other: Condition) -> Condition:
        return Condition.all_of(self, other)

    def __or__(self, other: Condition) -> Condition:
        return Condition.any_of(self, other)

    def __invert__(self) -> Condition:
        raise NotImplementedError

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a condition is neither true nor false before it is given to find; write `(a) & (b)` for `a and b`, "
            "`(a) | (b)` for `a or b`, `~(a)` for `not a`, and `(1 < field) & (field < 5)` for `1 < field < 5`"
        )

    @staticmethod
    def all_of(*conditions: Condition) -> Condition:
        """True where each is; TRUE if there are none."""
        return _joined(Every, conditions, neutral=Condition.TRUE)

    @staticmethod
    def any_of(*conditions: Condition) -> Condition:
        """True where at least one is; FALSE if there are none."""
        return _joined(Some, conditions, neutral=Condition.FALSE)


@dataclass(frozen=True, slots=True)
class Always(Condition):
    """The same of every root entity."""

    is_true: bool

    def __invert__(self) -> Condition:
        return Condition.FALSE if self.is_true else Condition.TRUE


class Operator(Enum):
    """How a value is compared."""

    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="
    EQUAL = "=="
    UNEQUAL = "!="
    IN = "in"
    LIKE = "like"


@dataclass(frozen=True, slots=True)
class Comparison(Condition):
    """`value` is None with EQUAL and UNEQUAL only; a set with IN, which may hold None; a Pattern with LIKE."""

    place: Place
    operator: Operator
    value: Comparable | frozenset[Comparable | None] | Pattern | None
    negated: bool = False

    def __invert__(self) -> Condition:
        return replace(self, negated=not self.negated)


@dataclass(frozen=True, slots=True)
class Every(Condition):
    """All of several."""

    parts: tuple[Condition, ...]

    def __invert__(self) -> Condition:
        return Some(tuple(~part for part in self.parts))


@dataclass(frozen=True, slots=True)
class Some(Condition):
    """At least one of several."""

    parts: tuple[Condition, ...]

    def __invert__(self) -> Condition:
        return Every(tuple(~part for part in self.parts))


Condition.TRUE = Always(is_true=True)
Condition.FALSE = Always(is_true=False)


def joined_unbounded(kind: type[Every | Some], conditions: Iterable[Condition], *, neutral: Condition) -> Condition:
    """Without what does not matter, and flat: SQLite allows no deep expressions."""
    parts: list[Condition] = []
    for condition in conditions:
        if condition == ~neutral:
            return condition
        if condition != neutral:
            parts.extend(condition.parts if isinstance(condition, kind) else (condition,))
    return kind(tuple(parts)) if len(parts) > 1 else parts[0] if parts else neutral


def _joined(kind: type[Every | Some], conditions: tuple[Condition, ...], *, neutral: Condition) -> Condition:
    for given in conditions:
        require_condition(given)
    joined = joined_unbounded(kind, conditions, neutral=neutral)
    comparisons, nested = _size(joined)
    if comparisons > MOST_COMPARISONS:
        raise SearchError(
            f"a condition has {comparisons} comparisons, the limit is {MOST_COMPARISONS}; many values of one field "
            f"are one comparison: write field.is_in(values)"
        )
    if nested > MOST_NESTED:
        raise SearchError(f"a condition is nested {nested} deep, the limit is {MOST_NESTED}")
    return joined


def require_condition(given: Any) -> None:
    """TypeError for what is none, such as the outcome of a comparison that was no field's."""
    if not isinstance(given, Condition):
        raise TypeError(f"{given!r} is no condition; compare a field: Product.price < 10")


def _size(condition: Condition) -> tuple[int, int]:
    """Comparisons in all, and how deep they are nested."""
    if not isinstance(condition, Every | Some):
        return 1, 0
    sizes = [_size(part) for part in condition.parts]
    return sum(comparisons for comparisons, _ in sizes), 1 + max(nested for _, nested in sizes)
