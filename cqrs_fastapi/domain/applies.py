"""Finds the folds of an aggregate class: which method applies which event."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from cqrs_fastapi.mediation.signatures import SignatureProblem, read_signature
from cqrs_fastapi.messages.events import AnyEvent, definition_of

F = TypeVar("F", bound=Callable[..., None])


def applies(method: F) -> F:
    """Mark a method of an aggregate as the fold of the event that its parameter is annotated with.

    A fold changes the state and nothing else: it runs when the event is recorded and at each replay.
    """
    method.__applies__ = True  # type: ignore[attr-defined]  # the mark itself
    return method


def folds_of(cls: type) -> dict[type[AnyEvent], str]:
    """Method names by event class, inherited ones included; a TypeError says what is wrong."""
    folds: dict[type[AnyEvent], str] = {}
    for name in _marked_names(cls):
        method = getattr(cls, name)
        event_type = _event_of(cls, name, method)
        if event_type in folds:
            raise TypeError(
                f"{cls.__name__} applies {event_type.__name__} twice, in {folds[event_type]} and {name}; keep one"
            )
        folds[event_type] = name
    return folds


def fold_of(aggregate: Any, event_type: type) -> Callable[[Any], None]:
    """What applies an event of this class to the aggregate; a TypeError says what to write if nothing does."""
    try:
        fold: Callable[[Any], None] = getattr(aggregate, aggregate.__folds__[event_type])
    except KeyError:
        cls, name = type(aggregate).__name__, event_type.__name__
        write = f"@applies def on_{name.lower()}(self, event: {name})"
        raise TypeError(f"{cls} records {name} and has no fold for it; write: {write}") from None
    return fold


def _marked_names(cls: type) -> list[str]:
    """A subclass that overrides a fold need not repeat the mark."""
    names: dict[str, None] = {}
    for parent in reversed(cls.__mro__):
        for name, value in parent.__dict__.items():
            if getattr(value, "__applies__", False):
                names[name] = None
    return list(names)


def events_of(cls: type, name: str) -> list[type[AnyEvent]]:
    """The events that a function of a state and an event is annotated with: a class, or a union of classes."""
    where = f"{cls.__name__}.{name}"
    annotation = _annotation_of(where, getattr(cls, name))
    is_union = get_origin(annotation) in (Union, UnionType)
    return [_event_class(where, one) for one in (get_args(annotation) if is_union else (annotation,))]


def _event_of(cls: type, name: str, method: Any) -> type[AnyEvent]:
    where = f"{cls.__name__}.{name}"
    return _event_class(where, _annotation_of(where, method))


def _annotation_of(where: str, function: Any) -> Any:
    """Of the second parameter: the first is the aggregate, or its state."""
    try:
        parameters = read_signature(function).parameters
    except SignatureProblem as problem:
        raise TypeError(str(problem)) from None
    if len(parameters) != 2:  # noqa: PLR2004  # the aggregate or its state, and the event
        raise TypeError(f"{where} takes {len(parameters) - 1} arguments; a fold takes the event alone")
    return parameters[1].annotation


def _event_class(where: str, annotation: Any) -> type[AnyEvent]:
    if not isinstance(annotation, type) or annotation is inspect.Parameter.empty:
        raise TypeError(f"{where} does not say which event it applies; annotate its parameter with the event's class")
    try:
        definition_of(annotation)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    return annotation
