"""Conditions and orderings as SQL over the rows of root states.

Values are bind parameters. All that is written into a statement are names of fields, which `Place` has checked, so that
an expression index on a field serves it. No NOT stands before what may be null: each comparison tells its opposite.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, UnaryExpression, and_, false, not_, nulls_last, or_, true

from cqrs_fastapi.domain.finding.conditions import Always, Comparison, Condition, Every, Operator, Some
from cqrs_fastapi.domain.finding.ordering import Ordering
from cqrs_fastapi.domain.finding.spelling import Spelling
from cqrs_fastapi.domain.finding.texts import Pattern

Truth = ColumnElement[bool]

_OPERATORS: Mapping[Operator, Callable[[Any, Any], Truth]] = {
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.GREATER: operator.gt,
    Operator.AT_LEAST: operator.ge,
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
}


def where(condition: Condition, spelling: Spelling) -> Truth:
    """The condition as what may stand after WHERE; what it is null of, it is false of."""
    match condition:
        case Always():
            return true() if condition.is_true else false()
        case Every():
            return and_(*(where(part, spelling) for part in condition.parts))
        case Some():
            return or_(*(where(part, spelling) for part in condition.parts))
        case Comparison():
            return _comparison(condition, spelling)
        case _:
            raise TypeError(f"{condition!r} is no condition of this library")


def order_by(ordering: Ordering, spelling: Spelling) -> Sequence[UnaryExpression[Any]]:
    """The ordering as what may stand after ORDER BY."""
    return [_sorted(spelling.stored(step.place), descending=step.descending) for step in ordering.total()]


def _sorted(stored: ColumnElement[Any], *, descending: bool) -> UnaryExpression[Any]:
    sorted_by: UnaryExpression[Any] = nulls_last(stored.desc() if descending else stored.asc())
    return sorted_by


def _comparison(comparison: Comparison, spelling: Spelling) -> Truth:
    stored = spelling.stored(comparison.place)
    wanted: Any = comparison.value
    if comparison.operator is Operator.IN:
        return _one_of(comparison, stored, spelling)
    if wanted is None:
        is_null = (comparison.operator is Operator.EQUAL) is not comparison.negated
        return stored.is_(None) if is_null else stored.is_not(None)
    if isinstance(wanted, Pattern):
        holds = spelling.like(stored, wanted)
    else:
        holds = _OPERATORS[comparison.operator](stored, spelling.value(comparison.place, wanted))
    return or_(not_(holds), stored.is_(None)) if comparison.negated else holds


def _one_of(comparison: Comparison, stored: ColumnElement[Any], spelling: Spelling) -> Truth:
    wanted: Any = comparison.value
    values = sorted(value for value in wanted if value is not None)
    takes_null = None in wanted
    if comparison.negated:
        is_none = spelling.none_of(comparison.place, stored, values)
        return and_(is_none, stored.is_not(None)) if takes_null else or_(is_none, stored.is_(None))
    is_one = spelling.one_of(comparison.place, stored, values)
    return or_(is_one, stored.is_(None)) if takes_null else is_one
