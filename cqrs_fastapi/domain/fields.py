"""Finds the fields of an aggregate class: what its annotations say that its instances hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar, get_origin, get_type_hints


class Initial:
    """The mark that `state` leaves in a class: how the field starts in each instance."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def fields_of(cls: type, base: type) -> dict[str, Any]:
    """The types of the fields by their names, inherited ones first; what `base` itself has is none. A TypeError names
    one without an annotation, or with one that cannot be read.
    """
    types: dict[str, Any] = {}
    for parent in _parents(cls, base):
        for name in vars(parent).get("__annotations__", {}):
            types[name] = _type_of(cls, parent, name)
        for name in _values_of(parent):
            if name not in types:
                raise TypeError(
                    f"{cls.__name__}.{name} has no annotation, and snapshots need one; write {name}: its_type = ..., "
                    f"or {name}: ClassVar[its_type] = ... if it never changes"
                )
    bound = _bound_variables(cls)
    return {name: bound.get(kind, kind) for name, kind in types.items() if kind is not ClassVar}


def _parents(cls: type, base: type) -> Iterator[type]:
    return (parent for parent in reversed(cls.__mro__) if parent is not Generic and not issubclass(base, parent))


def _type_of(cls: type, parent: type, name: str) -> Any:
    """What one annotation says; ClassVar for all that are such."""
    alone = type(parent.__name__, (), {"__annotations__": {name: vars(parent)["__annotations__"][name]}})
    alone.__module__ = parent.__module__
    try:
        kind = get_type_hints(alone, include_extras=True)[name]
    except NameError as error:
        raise TypeError(
            f"{cls.__name__}.{name} has an annotation that cannot be read ({error}), and snapshots need it: define or "
            f"import the type at module level, above the class"
        ) from None
    return ClassVar if kind is ClassVar or get_origin(kind) is ClassVar else kind


def _values_of(parent: type) -> Iterator[str]:
    """Names of attributes that are neither methods nor properties nor classes."""
    for name, value in vars(parent).items():
        is_part_of_class = inspect.isroutine(value) or isinstance(value, type) or hasattr(type(value), "__get__")
        if not is_part_of_class and not name.startswith(("__", "_abc_")):
            yield name


def _bound_variables(cls: type) -> dict[Any, Any]:
    """What stands for the type variables of generic bases, as in `Decider[Balance]`."""
    bound: dict[Any, Any] = {}
    for parent in cls.__mro__:
        for generic in vars(parent).get("__orig_bases__", ()):
            variables = getattr(get_origin(generic), "__parameters__", ())
            bound.update(zip(variables, getattr(generic, "__args__", ()), strict=False))
    return {variable: kind for variable, kind in bound.items() if not isinstance(kind, TypeVar)}
