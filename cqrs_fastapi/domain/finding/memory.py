"""Conditions and orderings applied to states in memory, with the results that SQL gives."""

from __future__ import annotations

from typing import Any, Protocol

from cqrs_fastapi.domain.finding.conditions import Always, Comparison, Condition, Every, Operator, Some
from cqrs_fastapi.domain.finding.kinds import Comparable
from cqrs_fastapi.domain.finding.ordering import Ordering
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.texts import Pattern


def matches(condition: Condition, state: RootState) -> bool:
    """Whether the condition is true of it. Never of a deleted one."""
    return state.deleted_at is None and _is_true(condition, state)


class SortKey(Protocol):
    """Whatever is less comes first."""

    def __lt__(self, other: Any, /) -> bool: ...


def sort_key(ordering: Ordering, state: RootState) -> SortKey:
    """Keys of one ordering; no two entities have equal ones."""
    key: list[object] = []
    for step in ordering.total():
        value = step.place.read(state)
        key.append((1,) if value is None else (0, _Descending(value) if step.descending else value))
    return tuple(key)


class _Descending:
    """Comes first where its value comes last."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Descending) -> bool:
        less: bool = other.value < self.value
        return less

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and bool(self.value == other.value)

    __hash__ = None  # type: ignore[assignment]  # it is only ever compared


def _is_true(condition: Condition, state: RootState) -> bool:
    match condition:
        case Always():
            return condition.is_true
        case Every():
            return all(_is_true(part, state) for part in condition.parts)
        case Some():
            return any(_is_true(part, state) for part in condition.parts)
        case Comparison():
            return _holds(condition, condition.place.read(state)) is not condition.negated
        case _:
            raise TypeError(f"{condition!r} is no condition of this library")


def _holds(comparison: Comparison, found: Comparable | None) -> bool:
    wanted: Any = comparison.value
    if comparison.operator is Operator.IN:
        return found in wanted
    if wanted is None:
        return (found is None) is (comparison.operator is Operator.EQUAL)
    return found is not None and _compare(comparison.operator, found, wanted)


def _compare(operator: Operator, found: Any, wanted: Any) -> bool:  # noqa: PLR0911  # one answer for each operator
    match operator:
        case Operator.LESS:
            return bool(found < wanted)
        case Operator.AT_MOST:
            return bool(found <= wanted)
        case Operator.GREATER:
            return bool(found > wanted)
        case Operator.AT_LEAST:
            return bool(found >= wanted)
        case Operator.EQUAL:
            return bool(found == wanted)
        case Operator.UNEQUAL:
            return bool(found != wanted)
        case _:
            assert isinstance(wanted, Pattern)  # noqa: S101  # for the checker: what LIKE holds
            return wanted.matches(found)
