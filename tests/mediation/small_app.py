"""An application without a database: real maps, compiler, injector and kernel around a unit of work that remembers."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dependency_injector import containers
from sqlalchemy import Connection

from cqrs_fastapi.clock import SystemClock
from cqrs_fastapi.errors import ConcurrencyError, RegistrationError
from cqrs_fastapi.identity import Uuid7Factory
from cqrs_fastapi.mediation.behaviors import Behavior
from cqrs_fastapi.mediation.compiler import Compiler
from cqrs_fastapi.mediation.event_map import EventMap
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.idempotency import Attempt
from cqrs_fastapi.mediation.injection import Builtin, Injector
from cqrs_fastapi.mediation.kernel import Kernel, UnitLimits
from cqrs_fastapi.mediation.providers import index
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata, holder
from cqrs_fastapi.runtime.assembly import start_application_values


class Session:
    """Stands for an AsyncSession: one for each unit of work."""


@dataclass
class World:
    """What has become of all units of work."""

    units: list[Unit] = field(default_factory=list)
    committing: Callable[[], Awaitable[None]] | None = None
    """Runs inside each commit."""

    @property
    def committed(self) -> list[Any]:
        """The notes of the units that were committed, in order."""
        return [note for unit in self.units if unit.ended == "committed" for note in unit.notes]

    @property
    def endings(self) -> list[str]:
        return [unit.ended for unit in self.units]


class Unit:
    """Handlers `note` things in it; they count only when it is committed."""

    def __init__(self, world: World, scope: Scope) -> None:
        self.world, self.scope = world, scope
        self.spoiled: BaseException | None = None
        self.session = Session()
        self.notes: list[Any] = []
        self.published: list[AnyEvent] = []
        self.ended = "open"
        self.conflict: ConcurrencyError | None = None
        world.units.append(self)

    def note(self, what: Any) -> None:
        self.notes.append(what)

    def publish(self, event: AnyEvent, /) -> None:
        self.published.append(event)
        self.notes.append(event)

    def join(self, work: Callable[[Connection], None], /) -> None:
        raise NotImplementedError

    def remember(self, attempt: Attempt, response: str, /) -> None:
        raise NotImplementedError

    def draft(self) -> None:
        pass

    async def prepare(self, scope: Scope, /) -> None:
        while self.published:
            event = self.published.pop(0)
            await self.scope.kernel.pipelines.react(scope, event, _metadata_of_event())

    async def commit(self) -> None:
        if self.world.committing is not None:
            await self.world.committing()
        if self.conflict is not None:
            raise self.conflict
        self.ended = "committed"

    async def rollback(self) -> None:
        self.ended = "rolled back"


def _metadata_of_event() -> Metadata:
    current, own, now = holder(), UUID7(), CLOCK.now()
    return current.next(own, now) if current else Metadata(message_id=own, correlation_id=str(own), time=now)


UUID7, CLOCK = Uuid7Factory(), SystemClock()


def unit_of(scope: Scope) -> Unit:
    unit = scope.unit_of_work
    assert isinstance(unit, Unit)
    return unit


BUILTINS: Mapping[Any, Builtin] = {
    Unit: Builtin(unit_of),
    Session: Builtin(lambda scope: unit_of(scope).session),
    RequestMediator: Builtin(lambda scope: scope.mediator),
    EventMediator: Builtin(lambda scope: scope.event_mediator),
    Metadata: Builtin(lambda _: Metadata.current(), opens_unit=False),
}


class EmptyContainer(containers.DeclarativeContainer):
    pass


class Steady(random.Random):
    """No pauses between the attempts of a decision."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


@dataclass
class SmallApp:
    kernel: Kernel
    world: World

    @property
    def mediator(self) -> RequestMediator:
        return self.kernel.mediator_of(None)

    @property
    def event_mediator(self) -> EventMediator:
        return self.kernel.event_mediator_of(None)


def compiled(
    requests: RequestMap,
    events: EventMap | None = None,
    *,
    container: Any = None,
    behaviors: Sequence[Behavior] = (),
    overrides: Mapping[Any, Any] | None = None,
    registered: Sequence[type] = (),
) -> tuple[Compiler, Injector]:
    """Raises the RegistrationError that the application would raise."""
    injector = Injector(BUILTINS, index(container or EmptyContainer()), overrides or {})
    compiler = Compiler(injector, tuple(behaviors))
    compiler.compile_requests(requests.bindings(), registered)
    compiler.compile_events((events or EventMap()).bindings())
    if injector.problems:
        raise RegistrationError(injector.problems)
    return compiler, injector


async def started(
    requests: RequestMap,
    events: EventMap | None = None,
    *,
    container: Any = None,
    behaviors: Sequence[Behavior] = (),
    overrides: Mapping[Any, Any] | None = None,
    timeout: float = 30.0,  # noqa: ASYNC109  # a setting of the application, not of this call
    retries: int = 3,
    at_once: int = 100,
) -> SmallApp:
    compiler, injector = compiled(requests, events, container=container, behaviors=behaviors, overrides=overrides)
    await start_application_values(injector)
    world = World()
    limits = UnitLimits(timeout, retries, at_once)
    kernel = Kernel(UUID7, CLOCK, lambda scope: Unit(world, scope), limits, compiler.pipelines, Steady())
    compiler.attach(kernel)
    return SmallApp(kernel, world)
