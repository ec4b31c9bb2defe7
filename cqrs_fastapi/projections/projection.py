"""Read models fed by events: one class, a method for each event it is built from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from cqrs_fastapi.mediation.event_map import EventBinding, Unknown
from cqrs_fastapi.messages.events import AnyEvent, EventTypes, event_types_of

E = TypeVar("E", bound=AnyEvent)
P = ParamSpec("P")
Self = TypeVar("Self")

Method = Callable[Concatenate[Self, E, P], Awaitable[None]]


class Projection:
    """`class OrderOverview(Projection, version=1)` with methods marked `@on(OrderPlaced)`.

    A method's further parameters are injected; ask for the AsyncSession and write the read model's rows with it. They
    are committed together with the inbox row and the checkpoint: each event takes effect once, in the order of the
    store. Raising the version makes it a new projection. A new one is built from all events of the store, the oldest
    first; with `from_start=False` it begins at the present. `unknown` is that of `EventMap.bind`.
    """

    __projection__: ClassVar[str]
    __from_start__: ClassVar[bool]
    __unknown__: ClassVar[Unknown]

    def __init_subclass__(
        cls,
        *,
        version: int = 1,
        name: str | None = None,
        from_start: bool = True,
        unknown: Unknown = "hold",
        **rest: Any,
    ) -> None:
        super().__init_subclass__(**rest)
        cls.__from_start__ = from_start
        cls.__unknown__ = unknown
        if version < 1:
            raise TypeError(f"{cls.__name__}: version must be 1 or more, not {version}")
        cls.__projection__ = f"{name or cls.__name__}.v{version}"


def on(event: type[E] | EventTypes[E], /) -> Callable[[Method[Self, E, P]], Method[Self, E, P]]:
    """Mark a projection's method as what it does with this event."""

    def mark(method: Method[Self, E, P]) -> Method[Self, E, P]:
        marked: list[type] = [*getattr(method, "__projects__", ()), *event_types_of(event)]
        method.__projects__ = marked  # type: ignore[attr-defined]  # the mark itself
        return method

    return mark


class ProjectionMap:
    """The projections of an application."""

    def __init__(self) -> None:
        self._projections: list[type[Projection]] = []

    def include(self, *projections: type[Projection]) -> None:
        """Keep these read models up to date, from now on."""
        self._projections.extend(projections)

    def bindings(self) -> Iterator[EventBinding]:
        """A durable binding for each marked method."""
        for projection in self._projections:
            instance = projection()
            for name in dir(projection):
                method = getattr(instance, name)
                for event_type in getattr(method, "__projects__", ()):
                    yield EventBinding(
                        event_type,
                        method,
                        "durable",
                        projection.__projection__,
                        (),
                        projection.__from_start__,
                        projection.__unknown__,
                    )

    def problems(self) -> Iterator[str]:
        """What is wrong with the projections that were included."""
        for projection in self._projections:
            if not any(getattr(getattr(projection, name), "__projects__", ()) for name in dir(projection)):
                yield f"{projection.__name__} is built from no event; mark a method with @on(YourEvent)"
        doubled = {one for one in self._projections if self._projections.count(one) > 1}
        for projection in sorted(doubled, key=lambda one: one.__name__):
            yield f"{projection.__name__} is included twice; include it once"
