"""Which functions run periodically, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Concatenate, ParamSpec, TypeAlias

from cqrs_fastapi.mediation.behaviors import Behavior
from cqrs_fastapi.scheduling.cron import Cron
from cqrs_fastapi.scheduling.tick import Tick
from cqrs_fastapi.scheduling.triggers import At, Every, Trigger

P = ParamSpec("P")
Handler: TypeAlias = Callable[Concatenate[Tick, P], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Job:
    """A function of a tick, and the rule of its ticks. The name is how the database remembers what has run.

    With `immediately` the last tick before the first start counts too; else a new job waits for its next one.
    """

    name: str
    trigger: Trigger
    handler: object
    behaviors: tuple[Behavior, ...] = ()
    immediately: bool = False


class JobMap:
    """Bindings in the making. Wrong arguments are refused at once; what depends on other jobs, when the application
    starts.
    """

    def __init__(self, *, behaviors: Sequence[Behavior] = ()) -> None:
        self._behaviors = tuple(behaviors)
        self._jobs: list[Job] = []
        self._included: list[JobMap] = []

    def bind(
        self,
        handler: Handler[P],
        /,
        *,
        cron: str | None = None,
        every: timedelta | None = None,
        at: datetime | None = None,
        immediately: bool = False,
        timezone: str = "UTC",
        name: str | None = None,
        behaviors: Sequence[Behavior] = (),
    ) -> None:
        """Run `handler` at each tick of exactly one of `cron`, `every` and `at`; its first parameter is the Tick.

        In the whole cluster the effect in the database is committed once for each tick. A tick that fails is recorded
        and not tried again. Of the ticks missed while no scheduler ran, or while the last run took longer, only the
        latest is made up for; `at` is made up for however late. A new name is a new job. `timezone` belongs to `cron`.

        Raises TypeError or ValueError for arguments that contradict each other or cannot be read.
        """
        trigger = _trigger(cron, every, at, timezone, immediately=immediately)
        if not callable(handler):
            raise TypeError(f"a job is an async function of a Tick, not {handler!r}")
        called = name if name is not None else str(getattr(handler, "__qualname__", type(handler).__qualname__))
        if not called.strip():
            raise ValueError("name='' cannot be told apart; leave it out, or write a name that stays the same")
        self.add(Job(called, trigger, handler, tuple(behaviors), immediately))

    def job(
        self,
        *,
        cron: str | None = None,
        every: timedelta | None = None,
        at: datetime | None = None,
        immediately: bool = False,
        timezone: str = "UTC",
        name: str | None = None,
        behaviors: Sequence[Behavior] = (),
    ) -> Callable[[Handler[P]], Handler[P]]:
        """`bind` as a decorator of a function, which stays as it was."""
        _trigger(cron, every, at, timezone, immediately=immediately)  # refused here, where the arguments stand

        def register(handler: Handler[P]) -> Handler[P]:
            self.bind(
                handler,
                cron=cron,
                every=every,
                at=at,
                immediately=immediately,
                timezone=timezone,
                name=name,
                behaviors=behaviors,
            )
            return handler

        return register

    def add(self, job: Job, /) -> None:
        """Take over a job that is complete."""
        self._jobs.append(job)

    def include(self, other: JobMap) -> None:
        """Take over all jobs of another map, also those it gets later, inside this map's behaviors."""
        self._included.append(other)

    def jobs(self) -> list[Job]:
        """All jobs, with the behaviors of the maps around them outermost."""
        inner = [*self._jobs]
        for other in self._included:
            inner.extend(other.jobs())
        return [replace(job, behaviors=(*self._behaviors, *job.behaviors)) for job in inner]

    def problems(self) -> list[str]:
        """What is wrong with the jobs taken together, as lines of the start-up error."""
        counted = Counter(job.name for job in self.jobs())
        return [
            f"{times} jobs are called {name!r}; the name is how the database remembers what has run: give one of them "
            "name='...'"
            for name, times in counted.items()
            if times > 1
        ]


def _trigger(
    cron: str | None, every: timedelta | None, at: datetime | None, timezone: str, *, immediately: bool
) -> Trigger:
    given = [word for word, value in (("cron", cron), ("every", every), ("at", at)) if value is not None]
    if len(given) != 1:
        said = " and ".join(given) or "none of them"
        raise TypeError(f"a job has exactly one of cron=, every= and at=; it was given {said}")
    if timezone != "UTC" and cron is None:
        raise TypeError(f"timezone={timezone!r} belongs to cron=; {given[0]}= is the same everywhere")
    if immediately and at is not None:
        raise TypeError("immediately=True has no meaning with at=, which runs once, at its time or as soon as possible")
    return _of_type(cron, every, at, timezone)


def _of_type(cron: object, every: object, at: object, timezone: str) -> Trigger:
    """The values come from code that a checker may never have seen."""
    if isinstance(cron, str):
        return Cron(cron, timezone)
    if isinstance(every, timedelta):
        return Every(every)
    if isinstance(at, datetime):
        return At(at)
    if cron is not None:
        raise TypeError(f"cron={cron!r} is no text; write cron='0 2 * * *'")
    if every is not None:
        raise TypeError(f"every={every!r} is no timedelta; write every=timedelta(...)")
    raise TypeError(f"at={at!r} is no datetime; write at=datetime(..., tzinfo=UTC)")
