"""Reads what a callable asks for, and says what is wrong with it in a sentence that names the place."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

_ITERATORS = (AsyncGenerator, AsyncIterator, AsyncIterable, Generator, Iterator, Iterable)


class SignatureProblem(Exception):  # noqa: N818  # never leaves this package: it becomes a line of a RegistrationError
    """A callable whose parameters cannot be read."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a callable. `annotation` keeps `Annotated`."""

    name: str
    annotation: Any
    has_default: bool
    default: Any
    keyword_only: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a callable and what it returns (None if it does not say)."""

    parameters: tuple[Parameter, ...]
    returns: Any
    says_what_it_returns: bool


def name_of(target: object) -> str:
    """How to call a class, function or method in a message."""
    return str(getattr(target, "__qualname__", type(target).__qualname__))


def read_signature(target: Callable[..., object]) -> Signature:
    """The parameters of a function, a method, a callable object, or of the constructor of a class."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError) as error:
        raise SignatureProblem(f"{name_of(target)} has no signature that can be read: {error}") from None
    hints = _hints(target)
    parameters = tuple(
        _parameter(parameter, hints)
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )
    return Signature(parameters, hints.get("return"), "return" in hints)


def is_coroutine_function(target: object) -> bool:
    """Whether calling it gives something to await: an async function, or an object with an async `__call__`."""
    called = target if inspect.isroutine(target) or isinstance(target, type) else _call_of(target)
    return inspect.iscoroutinefunction(called)


def unwrapped_result(returns: Any) -> Any:
    """`T` of `Iterator[T]`, `AsyncIterator[T]` and generators; anything else as it is."""
    if get_origin(returns) in _ITERATORS:
        return get_args(returns)[0]
    return returns


def _parameter(parameter: inspect.Parameter, hints: dict[str, Any]) -> Parameter:
    has_default = parameter.default is not parameter.empty
    return Parameter(
        parameter.name,
        hints.get(parameter.name, parameter.empty),
        has_default,
        parameter.default,
        parameter.kind is parameter.KEYWORD_ONLY,
    )


def _hints(target: Callable[..., object]) -> dict[str, Any]:
    function = _function_of(target)
    if function is None:
        return {}
    try:
        return get_type_hints(function, localns=_closure_of(function), include_extras=True)
    except NameError as error:
        raise SignatureProblem(
            f"{name_of(target)} has an annotation that cannot be read at run time ({error}): import the type outside "
            f"of `if TYPE_CHECKING:`, at module level"
        ) from None


def _function_of(target: Any) -> Callable[..., object] | None:
    if isinstance(target, type):
        constructor = inspect.getattr_static(target, "__init__")
        return constructor if inspect.isfunction(constructor) else None
    if inspect.isroutine(target):
        function: Callable[..., object] = inspect.unwrap(target)
        return function
    return _call_of(target)


def _call_of(target: object) -> Callable[..., object] | None:
    """What runs when an object of the user's is called."""
    method: Callable[..., object] | None = inspect.getattr_static(type(target), "__call__", None)
    return method


def _closure_of(function: Any) -> dict[str, Any]:
    """Names of enclosing functions that the function itself uses; they serve annotations of local classes."""
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        return {}
