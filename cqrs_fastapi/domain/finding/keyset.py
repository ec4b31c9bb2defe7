"""Pages that go on after the last entity of the page before, wherever it would stand now.

Nothing is counted or skipped, so an entity that does not change is neither lost nor repeated, whatever others do.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from cqrs_fastapi.domain.finding.conditions import Comparison, Condition, Every, Operator, Some, joined_unbounded
from cqrs_fastapi.domain.finding.kinds import NUMBERS, Comparable, Form, comparable
from cqrs_fastapi.domain.finding.ordering import Ordering, Step
from cqrs_fastapi.domain.finding.places import Place, RootState, column_value
from cqrs_fastapi.domain.finding.texts import SearchError, checked_text
from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.json_codec import parse_json, render_json

_LONGEST = 1 << 20


class CursorError(SearchError):
    """A cursor that this search has not given: of another ordering or another class, changed, or cut off."""

    code = "cursor"


def cursor_of(category: str, ordering: Ordering, last: RootState) -> str:
    """Where the next page begins, as text that suits a URL. Who holds it can read the values that the last entity had
    in the fields of the ordering, and can change them: it is a place to go on from and permits nothing.
    """
    values = [step.place.read(last) for step in ordering.total()]
    rendered = [str(value) if isinstance(value, Decimal) else value for value in values]
    text = render_json([_mark(category, ordering), *rendered])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def after(category: str, ordering: Ordering, cursor: str) -> Condition:
    """True of the entities that come after the cursor. CursorError if it is none of this ordering."""
    steps = ordering.total()
    values = _values(category, ordering, cursor)
    pairs = list(zip(steps, values, strict=True))
    later = [_every(*(_same(*pair) for pair in pairs[:place]), _past(*pair)) for place, pair in enumerate(pairs)]
    return joined_unbounded(Some, later, neutral=Condition.FALSE)


def both(one: Condition, other: Condition) -> Condition:
    """One and the other, however large: the limits are for what callers write."""
    return joined_unbounded(Every, (one, other), neutral=Condition.TRUE)


def _every(*parts: Condition) -> Condition:
    return joined_unbounded(Every, parts, neutral=Condition.TRUE)


def _same(step: Step, value: Comparable | None) -> Condition:
    return Comparison(step.place, Operator.EQUAL, value)


def _past(step: Step, value: Comparable | None) -> Condition:
    """Null comes last in either direction."""
    if value is None:
        return Condition.FALSE
    further = Comparison(step.place, Operator.LESS if step.descending else Operator.GREATER, value)
    if step.place.is_column:
        return further
    return joined_unbounded(Some, (further, Comparison(step.place, Operator.EQUAL, None)), neutral=Condition.FALSE)


def _mark(category: str, ordering: Ordering) -> str:
    """What tells the cursors of one ordering from those of another."""
    return hashlib.sha256(f"{category}: {ordering}".encode()).hexdigest()[:16]


def _values(category: str, ordering: Ordering, cursor: str) -> list[Comparable | None]:
    steps = ordering.total()
    given = _decoded(cursor)
    if not isinstance(given, list) or len(given) != len(steps) + 1 or given[0] != _mark(category, ordering):
        raise CursorError(
            f"this cursor is of another search than {category} by {ordering}; give the ordering that it came from, or "
            f"begin without a cursor"
        )
    return list(_checked(steps, given[1:]))


def _decoded(cursor: str) -> Any:
    if len(cursor) <= _LONGEST:
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            return parse_json(base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True))
        except (binascii.Error, ValueError, MalformedMessageError):
            pass  # told below, once for all of them
    raise CursorError("this is no cursor of a search; give back what the page before came with, or begin without one")


def _checked(steps: tuple[Step, ...], values: list[object]) -> Iterator[Comparable | None]:
    for step, value in zip(steps, values, strict=True):
        if value is None and not step.place.is_column:
            yield None
            continue
        compared = _compared(step.place, value)
        if compared is None:
            raise CursorError(f"this cursor has been changed: it holds no value of {step.place}; begin without one")
        yield compared


def _compared(place: Place, value: object) -> Comparable | None:
    if not isinstance(value, str):
        return None
    if place.form in NUMBERS:
        compared = comparable(Form.DECIMAL, value)
    else:
        compared = value if place.form is not Form.TRUTH or value in ("false", "true") else None
    try:
        checked_text(value)
        if place.is_column and compared is not None:
            column_value(place, compared)
    except (SearchError, ValueError):
        return None
    return compared
