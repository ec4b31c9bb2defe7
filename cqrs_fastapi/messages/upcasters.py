"""Upcasters: pure functions that make of the stored data of an event that of a later version, or of other events."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar, overload

from cqrs_fastapi.errors import MalformedMessageError

Data: TypeAlias = dict[str, Any]
"""The JSON object of an event."""
Key: TypeAlias = tuple[str, int]
"""The stored name and version of an event."""


class Upcast(NamedTuple):
    """One event that a stored one is read as: its stored name and version, and its data."""

    name: str
    version: int
    data: Data


Step = TypeVar("Step", bound=Callable[[Data], Data])
Split = TypeVar("Split", bound=Callable[[Data], Iterable[Upcast]])


@dataclass(frozen=True, slots=True)
class Upcaster:
    """A marked function. `into` is None for one that gives the data of the next version of the same name."""

    name: str
    version: int
    into: tuple[Key, ...] | None
    function: Callable[[Data], Any]

    @property
    def targets(self) -> tuple[Key, ...]:
        """All that it may lead to."""
        return ((self.name, self.version + 1),) if self.into is None else self.into

    @property
    def called(self) -> str:
        return str(getattr(self.function, "__qualname__", self.function))

    def __call__(self, data: Data) -> list[Upcast]:
        """Raises MalformedMessageError with the kind of what went wrong, never with a value: it may be secret."""
        try:
            given = self.function(data)
            made = [Upcast(self.name, self.version + 1, given)] if self.into is None else list(given)
        except Exception as error:  # noqa: BLE001  # whatever it raises, this event cannot be read by it
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise self._failure(f"failed with {type(error).__name__} in line {last.lineno} of {last.name}") from None
        for one in made:
            self._require_declared(one)
        return made

    def _require_declared(self, made: object) -> None:
        if not isinstance(made, Upcast):
            raise self._failure(
                f"gave a {type(made).__name__}; with into=... it gives several Upcast(name, version, data)"
            )
        if (made.name, made.version) not in self.targets:
            raise self._failure(f"gave {made.name!r} version {made.version}, which its into=... does not name")
        if not isinstance(made.data, dict):
            raise self._failure(f"gave a {type(made.data).__name__} as the data of {made.name!r}; it is a dict")

    def _failure(self, what: str) -> MalformedMessageError:
        return MalformedMessageError(f"the upcaster {self.called} of {self.name!r} version {self.version} {what}")


@overload
def upcasts(name: str, /, *, version: int) -> Callable[[Step], Step]: ...
@overload
def upcasts(name: str, /, *, version: int, into: Sequence[Key]) -> Callable[[Split], Split]: ...
def upcasts(name: str, /, *, version: int, into: Sequence[Key] | None = None) -> Callable[[Any], Any]:
    """Mark a pure function that reads what is stored as this version of an event; `cqrs.upcasters.include(it)` uses it.

    `@upcasts("account.deposited", version=1)` takes the JSON object and gives that of version 2. With `into`, which
    names what it may lead to (`into=[("order.placed", 2), ("line.added", 1)]`), it gives any number of
    `Upcast(name, version, data)`, also of other names, or none: the stored event is then passed over. What it leads to
    may have an upcaster again. It is called whenever the event is read, in any process, so it asks nothing of the
    outside, and always gives the same for the same data.
    """
    targets = None if into is None else tuple(_target(name, one) for one in into)
    if version < 1:
        raise TypeError(f"@upcasts({name!r}): version must be 1 or more, not {version}")

    def mark(function: Any) -> Any:
        if not _is_plain(function):
            raise TypeError(f"@upcasts({name!r}, version={version}) marks a plain function: write def, not async def")
        upcaster = Upcaster(name, version, targets, function)
        function.__upcasts__ = [*getattr(function, "__upcasts__", ()), upcaster]
        return function

    return mark


class UpcasterMap:
    """The upcasters of an application."""

    def __init__(self) -> None:
        self._functions: list[Callable[[Data], object]] = []

    def include(self, *functions: Callable[[Data], object]) -> None:
        """Read stored events by these functions, which are marked with `@upcasts`."""
        self._functions.extend(functions)

    def upcasters(self) -> list[Upcaster]:
        """One for each mark."""
        return [one for function in dict.fromkeys(self._functions) for one in _marks(function)]

    def problems(self) -> Iterator[str]:
        """What is wrong with what was included, as far as it can be told without the events."""
        for function in self._functions:
            if not _marks(function):
                called = getattr(function, "__qualname__", repr(function))
                yield f"{called} is no upcaster; write above it: @upcasts('stored.name', version=1)"


def _is_plain(function: object) -> bool:
    return callable(function) and not inspect.iscoroutinefunction(function)


def _marks(function: object) -> Sequence[Upcaster]:
    marks: Sequence[Upcaster] = getattr(function, "__upcasts__", ())
    return marks


def _target(name: str, given: object) -> Key:
    match given:
        case (str() as target, int() as version) if version >= 1:
            return target, version
    raise TypeError(f"@upcasts({name!r}): into names stored events: into=[('order.placed', 2)], not {given!r}")
