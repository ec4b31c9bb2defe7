"""Aggregates as two pure functions: what follows from a state and a command, and from a state and an event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.applies import events_of
from cqrs_fastapi.messages.events import AnyEvent

S = TypeVar("S")


class Decider(Aggregate, Generic[S]):
    """An aggregate whose `state` is one value, replaced by each event.

    Give `initial`, and as static methods `decide(state, command)`, which returns the events that follow or raises, and
    `evolve(state, event)`, which returns the next state. The events are those that `evolve` is annotated with, a class
    or a union of classes. It is loaded by `Repository[...]` as any aggregate is:
    `(await accounts.get_or_new(command.account_id)).execute(command)`.
    """

    initial: ClassVar[Any]
    """The state of one that has no events yet. All begin with this very object, so it must not be changed in place."""

    state: S

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name, form in (
            ("initial", "initial = ..."),
            ("decide", "@staticmethod def decide(state, command)"),
            ("evolve", "@staticmethod def evolve(state, event: YourEvent | YourOtherEvent)"),
        ):
            if getattr(cls, name, None) is getattr(Decider, name, None):
                raise TypeError(f"{cls.__name__} has no {name}; write: {form}")
        if cls.__folds__:
            names = ", ".join(cls.__folds__.values())
            raise TypeError(f"{cls.__name__} has folds of its own, {names}; its fold is evolve")
        cls.__folds__ = dict.fromkeys(events_of(cls, "evolve"), "_evolve")

    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.state = self.initial

    def execute(self, command: Any) -> tuple[AnyEvent, ...]:
        """Record what follows from the command, and give it."""
        events = tuple(self.decide(self.state, command))
        for event in events:
            self.record(event)
        return events

    @staticmethod
    def decide(state: Any, command: Any) -> Iterable[AnyEvent]:
        """The events that follow from a command in this state; an error refuses it. It has no effects."""
        raise NotImplementedError

    @staticmethod
    def evolve(state: Any, event: Any) -> Any:
        """The state after an event. It has no effects, and leaves the state that it is given alone."""
        raise NotImplementedError

    def _evolve(self, event: AnyEvent) -> None:
        self.state = self.evolve(self.state, event)
