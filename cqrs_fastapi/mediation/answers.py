"""What a request is answered with, and whether what a handler's annotations say fits it."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin, is_typeddict

from pydantic import BaseModel

from cqrs_fastapi.messages.requests import Command, Query, Request, StreamRequest


def result_of(request_type: type) -> Any:
    """The `R` of a request, as it was written; None if it cannot be known."""
    for parent in request_type.__mro__:
        if issubclass(parent, BaseModel):
            generic = parent.__pydantic_generic_metadata__
            if generic["origin"] in (Command, Query, StreamRequest):
                return _known(generic["args"][0])
        for base in parent.__dict__.get("__orig_bases__", ()):
            if get_origin(base) is Request:
                return _known(get_args(base)[0])
    return None


def _known(result: Any) -> Any:
    return None if isinstance(result, TypeVar) else _none_type(result)


def _none_type(result: Any) -> Any:
    return type(None) if result is None else result


def fits(returned: Any, result: Any) -> bool:
    """Whether a value of the type `returned` may stand for a `result`. Unions, generics, protocols and type variables
    are left to the type checker, which knows their rules.
    """
    returned = _none_type(returned)
    if returned == result or Any in (returned, result) or (returned, result) in _PROMOTIONS:
        return True
    if not _is_plain_class(returned) or not _is_plain_class(result):
        return True
    return issubclass(returned, result)


_PROMOTIONS = {(int, float), (int, complex), (float, complex), (bool, float), (bool, complex)}
"""What type checkers take for one another although no class inherits from the other."""


def _is_plain_class(annotation: Any) -> bool:
    return (
        isinstance(annotation, type)
        and not get_args(annotation)
        and not (getattr(annotation, "_is_protocol", False) or is_typeddict(annotation))
    )


def show(annotation: Any) -> str:
    """A type as one would write it."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
