"""The state of a root entity as it is stored, so that it can be searched and made into the entity again.

It is what pydantic writes as JSON values, with three changes, all of which pydantic reads: moments are in UTC and of
one width, so that their texts are in the order of time; times of day are of one width; durations are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from cqrs_fastapi.domain.finding.annotations import Shape, shapes_below
from cqrs_fastapi.domain.finding.fields import Field
from cqrs_fastapi.domain.finding.kinds import json_form
from cqrs_fastapi.domain.finding.texts import SearchError, checked_text

DEEPEST = 64
_LARGEST_BITS = 3_300
"""About a thousand digits."""


def render_state(fields: Iterable[Field[Any]], state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` are the values of the fields by their names, as `model_dump(mode="json")` gives them; what no field names
    is kept. SearchError for what cannot be stored on both databases (NUL in a text, NaN, an int of more than a thousand
    digits, values nested deeper than 64) and for a moment without a time zone.
    """
    shapes = {str(field): field.searched_as() for field in fields}
    return {_checked(name, name, 0): _rendered(shapes.get(name), value, name, 1) for name, value in state.items()}


def _rendered(shape: Shape | None, value: Any, path: str, depth: int) -> Any:
    if shape is not None and shape.kind is not None and shape.kind.reads is not None and value is not None:
        try:
            return json_form(shape.kind, shape.kind.reads.validate_python(value))
        except (ValidationError, SearchError) as error:
            told = "it is no " + shape.kind.name if isinstance(error, ValidationError) else str(error)
            raise SearchError(f"{path} cannot be stored: {told}") from None
    if shape is not None and shape.model is not None and isinstance(value, Mapping) and depth < DEEPEST:
        below = shapes_below(shape.model)
        return {
            _checked(name, path, depth): _rendered(below.get(name), inner, f"{path}.{name}", depth + 1)
            for name, inner in value.items()
        }
    return _checked(value, path, depth)


def _checked(value: Any, path: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise SearchError(f"{path} cannot be stored: it is nested deeper than {DEEPEST}")
    match value:
        case None | bool():
            return value
        case str():
            try:
                return checked_text(value)
            except SearchError as error:
                raise SearchError(f"{path} cannot be stored: {error}") from None
        case int() if value.bit_length() <= _LARGEST_BITS:
            return value
        case float() if math.isfinite(value):
            return value
        case list() | tuple():
            return [_checked(inner, path, depth + 1) for inner in value]
        case Mapping():
            return {_checked(name, path, depth): _checked(inner, path, depth + 1) for name, inner in value.items()}
        case int() | float():
            raise SearchError(
                f"{path} cannot be stored: JSON has no NaN and no infinities, and an int has at most 1,000 digits; "
                f"a ValueObject writes them as texts"
            )
        case _:
            raise TypeError(f"{path} is a {type(value).__name__}, which is no JSON; give model_dump(mode='json')")
