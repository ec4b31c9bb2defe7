"""Which handlers react to which event, and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from cqrs_fastapi.mediation.behaviors import Behavior
from cqrs_fastapi.mediation.failure_policy import FailurePolicy
from cqrs_fastapi.mediation.handlers import EventHandler
from cqrs_fastapi.messages.events import AnyEvent, EventTypes, event_types_of

E = TypeVar("E", bound=AnyEvent)
P = ParamSpec("P")

When: TypeAlias = Literal["in_transaction", "durable"]
"""`in_transaction`: in the transaction that records the event; an error rolls the command back.
`durable`: after the commit, at least once (its database effect once), retried, then parked as a dead letter."""

Unknown: TypeAlias = Literal["hold", "skip"]
"""What a durable handler does with an event that this code knows no class and no upcaster for, in this version.
`hold`: nothing is lost. It waits at an event of the own store until code runs that reads it; a message from elsewhere
is kept as a dead letter, so that a stranger cannot stop a topic. `skip`: it is passed over, and only the log tells."""

Group: TypeAlias = Literal["service", "each process"]
"""Who shares the events of a topic with a durable handler.
`service`: all processes of the service. One of them handles an event, and the inbox knows it.
`each process`: nobody. Every process gets what is published while it runs, in the order of each key: there is no inbox
and no dead letter. For what a process keeps for itself, as a cache.
"""

Effects: TypeAlias = Literal["any", "database"]
"""What a durable handler does. `any`: one transaction for each message. `database`: nothing outside of the transaction
that it is given, so that many messages may share one; it may be run again for what was rolled back.
"""


Predicate: TypeAlias = Callable[[Any], bool]
Validator: TypeAlias = Callable[[Any], None]
DEFAULT_POLICY = FailurePolicy()


@dataclass(frozen=True, slots=True)
class EventBinding:
    """One line of a map. `consumer` is the stable name under which a durable handler remembers what it has done.

    `from_start` lets a handler that is seen for the first time begin with the oldest event of the store.
    """

    event_type: type
    handler: object
    when: When
    consumer: str
    behaviors: tuple[Behavior, ...]
    from_start: bool = False
    unknown: Unknown = "hold"
    group: Group = "service"
    effects: Effects = "any"
    on_failure: FailurePolicy = DEFAULT_POLICY
    where: Predicate | None = None
    validate: Validator | None = None


@dataclass(frozen=True, slots=True)
class _Options:
    """What is said of all bindings of one call."""

    when: When
    name: str | None
    from_start: bool
    unknown: Unknown
    group: Group
    effects: Effects
    on_failure: FailurePolicy
    where: Predicate | None
    validate: Validator | None
    behaviors: tuple[Behavior, ...]

    def binding(self, event_type: type, handler: object, consumer: str) -> EventBinding:
        return EventBinding(
            event_type,
            handler,
            self.when,
            consumer,
            self.behaviors,
            self.from_start,
            self.unknown,
            self.group,
            self.effects,
            self.on_failure,
            self.where,
            self.validate,
        )


class EventMap:
    """Bindings in the making; several handlers may react to one event."""

    def __init__(self, *, behaviors: Sequence[Behavior] = ()) -> None:
        self._behaviors = tuple(behaviors)
        self._bindings: list[EventBinding] = []
        self._included: list[EventMap] = []

    @overload
    def bind(
        self,
        event: type[E] | EventTypes[E],
        handler: type[EventHandler[E]],
        /,
        *,
        when: When = "durable",
        name: str | None = None,
        from_start: bool = False,
        unknown: Unknown = "hold",
        group: Group = "service",
        effects: Effects = "any",
        on_failure: FailurePolicy = DEFAULT_POLICY,
        where: Callable[[E], bool] | None = None,
        validate: Callable[[E], None] | None = None,
        behaviors: Sequence[Behavior] = (),
    ) -> None: ...
    @overload
    def bind(
        self,
        event: type[E] | EventTypes[E],
        handler: Callable[Concatenate[E, P], Awaitable[None]],
        /,
        *,
        when: When = "durable",
        name: str | None = None,
        from_start: bool = False,
        unknown: Unknown = "hold",
        group: Group = "service",
        effects: Effects = "any",
        on_failure: FailurePolicy = DEFAULT_POLICY,
        where: Callable[[E], bool] | None = None,
        validate: Callable[[E], None] | None = None,
        behaviors: Sequence[Behavior] = (),
    ) -> None: ...
    def bind(
        self,
        event: object,
        handler: object,
        /,
        *,
        when: When = "durable",
        name: str | None = None,
        from_start: bool = False,
        unknown: Unknown = "hold",
        group: Group = "service",
        effects: Effects = "any",
        on_failure: FailurePolicy = DEFAULT_POLICY,
        where: Predicate | None = None,
        validate: Validator | None = None,
        behaviors: Sequence[Behavior] = (),
    ) -> None:
        """Let `handler` react to `event`, or to each of the events that it stands for.

        `name` is what a durable handler is called in the inbox; it defaults to the handler's own name. Renaming it
        makes it a new handler. A new handler begins at the present, or with `from_start` at the oldest event of this
        service's store; which events it has passed is remembered from then on. `unknown` says what a durable handler
        does with an event of its kind that this code cannot read yet; `group` who shares the events with it; `effects`
        whether several messages may share its transaction.

        A durable handler is given only events of which `where` says True; the others count as settled. What `validate`
        raises about an event makes it a bad payload: a dead letter at once. `on_failure` says what becomes of one that
        the handler fails with.
        """
        options = _Options(
            when, name, from_start, unknown, group, effects, on_failure, where, validate, tuple(behaviors)
        )
        self._add(event, handler, options)

    def on(
        self,
        event: type[E] | EventTypes[E],
        /,
        *,
        when: When = "durable",
        name: str | None = None,
        from_start: bool = False,
        unknown: Unknown = "hold",
        group: Group = "service",
        effects: Effects = "any",
        on_failure: FailurePolicy = DEFAULT_POLICY,
        where: Callable[[E], bool] | None = None,
        validate: Callable[[E], None] | None = None,
        behaviors: Sequence[Behavior] = (),
    ) -> BindsEvent[E]:
        """`bind` as a decorator of a class or a function, which stays as it was."""
        options = _Options(
            when, name, from_start, unknown, group, effects, on_failure, where, validate, tuple(behaviors)
        )

        def register(handler: object) -> object:
            self._add(event, handler, options)
            return handler

        return register  # type: ignore[return-value]  # one function stands for both overloads of BindsEvent

    def _add(self, event: object, handler: object, options: _Options) -> None:
        consumer = options.name or str(getattr(handler, "__qualname__", type(handler).__qualname__))
        self._bindings += (options.binding(event_type, handler, consumer) for event_type in event_types_of(event))

    def include(self, other: EventMap) -> None:
        """Take over all bindings of another map, also those it gets later, inside this map's behaviors."""
        self._included.append(other)

    def bindings(self) -> list[EventBinding]:
        """All bindings, with the behaviors of the maps around them outermost."""
        inner = [*self._bindings]
        for other in self._included:
            inner.extend(other.bindings())
        return [replace(binding, behaviors=(*self._behaviors, *binding.behaviors)) for binding in inner]


class BindsEvent(Protocol, Generic[E]):
    """The decorator of `on`."""

    @overload
    def __call__(self, handler: type[EventHandler[E]], /) -> type[EventHandler[E]]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[E, P], Coroutine[Any, Any, None]], /
    ) -> Callable[Concatenate[E, P], Coroutine[Any, Any, None]]: ...
