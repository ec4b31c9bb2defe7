"""What a declared type means to a search."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

from pydantic import BaseModel

from cqrs_fastapi.domain.finding.kinds import FLOAT, INT, Kind, kind_of_class, literal_kind


@dataclass(frozen=True, slots=True)
class Shape:
    """A field has a kind and is compared itself, or has fields below it, or is `unsearchable` for a reason."""

    kind: Kind | None = None
    model: type[BaseModel] | None = None
    """What the value is whose fields are below."""
    unsearchable: str | None = None
    is_closed: bool = False
    """Whether what is below is unsearchable too."""

    def closed(self, reason: str) -> Shape:
        """Unsearchable, with all that is below."""
        return replace(self, unsearchable=reason, is_closed=True)


def shape_of(annotation: object) -> Shape:
    """Of an optional type that of the other half; of a union, where all its members are compared alike."""
    annotation = _bare(annotation)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _shape_of_union(annotation)
    if origin is Literal:
        return _shape_of_literal(annotation)
    if not isinstance(annotation, type) or origin is not None:
        return _unsearchable(annotation)
    if issubclass(annotation, BaseModel):
        return _shape_of_model(annotation)
    try:
        kind = kind_of_class(annotation)
    except TypeError as error:
        return Shape(unsearchable=str(error))
    return _unsearchable(annotation) if kind is None else Shape(kind=kind)


@lru_cache(maxsize=1024)
def shapes_below(model: type[BaseModel]) -> Mapping[str, Shape]:
    """Of the fields of a model, by their names."""
    return {name: shape_of(info.annotation) for name, info in model.model_fields.items()}


def _bare(annotation: object) -> object:
    """Without Annotated and NewType."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def _shape_of_union(annotation: Any) -> Shape:
    shapes = [shape_of(member) for member in get_args(annotation) if member is not types.NoneType]
    if len(shapes) == 1:
        return shapes[0]
    if {shape.kind for shape in shapes} == {INT, FLOAT}:
        return Shape(kind=FLOAT)
    return _unsearchable(annotation)


def _shape_of_literal(annotation: Any) -> Shape:
    choices = tuple(choice for choice in get_args(annotation) if choice is not None)
    try:
        return Shape(kind=literal_kind(choices))
    except TypeError as error:
        return Shape(unsearchable=str(error))


def _shape_of_model(model: type[BaseModel]) -> Shape:
    first = next(iter(model.model_fields), "field")
    return Shape(
        model=model,
        unsearchable=f"a {model.__name__} is not compared as a whole; name one of its fields: .{first}",
    )


def _unsearchable(annotation: object) -> Shape:
    name = annotation.__name__ if isinstance(annotation, type) and get_origin(annotation) is None else str(annotation)
    return Shape(
        unsearchable=f"values of type {name} cannot be compared; bool, int, float, str, Decimal, datetime, date, time, "
        f"timedelta, UUID, Enum and Literal can, and so can the fields of values that are made of them"
    )
