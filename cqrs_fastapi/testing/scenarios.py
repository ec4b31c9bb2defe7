"""given, when, then: what an aggregate records, told by events alone, with no database and no loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.decider import Decider
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.testing.differences import require_raised, require_same, told
from cqrs_fastapi.testing.root_events import A_TIME, AN_ID

A = TypeVar("A", bound=Aggregate)
X = TypeVar("X", bound=Exception)


def given(aggregate: type[A], *history: AnyEvent, id: UUID = AN_ID) -> Given[A]:
    """An aggregate with these events behind it; `given(Account)` is a new one.

    `given(Account, Deposited(amount=5)).when(lambda account: account.withdraw(3)).then(Withdrawn(amount=3))`
    """
    loaded = aggregate(id)
    loaded.replay(history, len(history))
    return Given(loaded)


class Given(Generic[A]):
    """What has happened so far."""

    __slots__ = ("_aggregate",)

    def __init__(self, aggregate: A) -> None:
        self._aggregate = aggregate

    def when(self, act: Callable[[A], object] | object, *, number_of_times: int = 1) -> Outcome[A]:
        """Do it: call a function of the aggregate, or have a Decider decide on a command. `number_of_times=2` does it
        twice: what is idempotent records no more than done once.
        """
        if number_of_times < 1:
            raise ValueError(f"it is done once or more often, not {number_of_times} times")
        action = self._action(act)
        try:
            for _ in range(number_of_times):
                action()
            if isinstance(self._aggregate, RootEntity):
                self._aggregate.record_changes(A_TIME)  # as the unit of work does when it commits
        except Exception as error:  # noqa: BLE001  # whatever was raised is what the test is about
            return Outcome(self._aggregate, error)
        return Outcome(self._aggregate, None)

    def _action(self, act: Any) -> Callable[[], object]:
        if callable(act):
            return partial(act, self._aggregate)
        if isinstance(self._aggregate, Decider):
            return partial(self._aggregate.execute, act)
        cls = type(self._aggregate).__name__
        raise TypeError(f"{cls} is no Decider; write: when(lambda it: it.your_method({type(act).__name__}(...)))")


class Outcome(Generic[A]):
    """What came of it. Something must be said of it, or an error would go unnoticed."""

    __slots__ = ("_error", "aggregate")

    def __init__(self, aggregate: A, error: Exception | None) -> None:
        self.aggregate = aggregate
        self._error = error

    def then(self, *expected: AnyEvent) -> A:
        """These events were recorded, in this order, and no others; none at all for `then()`. Gives the aggregate, to
        look at its state.
        """
        if self._error is not None:
            raise AssertionError(f"it raised {self._error!r}, where {told(expected)} was expected") from self._error
        require_same(expected, self.aggregate.recorded)
        return self.aggregate

    def then_raises(self, error: type[X]) -> X:
        """It was refused by this error, and nothing was recorded. Gives the error, to look at it."""
        require_raised(self._error, error, self.aggregate.recorded)
        assert isinstance(self._error, error)  # noqa: S101  # for the checker: it was just required
        return self._error
