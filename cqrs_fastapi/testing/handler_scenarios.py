"""scenario, given, when, then: what a handler does, told by events alone, with no database, broker or application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

from cqrs_fastapi.clock import Clock, SystemClock
from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.refs import give_resolver
from cqrs_fastapi.errors import RegistrationError
from cqrs_fastapi.identity import IdFactory, Uuid7Factory
from cqrs_fastapi.mediation.compiler import Compiler
from cqrs_fastapi.mediation.event_map import EventBinding
from cqrs_fastapi.mediation.injection import Injector
from cqrs_fastapi.mediation.kernel import Kernel, UnitLimits
from cqrs_fastapi.mediation.pipelines import Pipelines
from cqrs_fastapi.mediation.request_map import RequestBinding
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.forms import kind_of
from cqrs_fastapi.messages.metadata import Metadata, Origin, enter, holder, leave
from cqrs_fastapi.testing.differences import require_raised, require_same, told
from cqrs_fastapi.testing.stage import OutOfReachError, Stage

X = TypeVar("X", bound=Exception)

_LIMITS = UnitLimits(timeout=30.0, retries=0, at_once=100)


def scenario(handler: Callable[..., object]) -> Scenario:
    """A handler class or function on an empty stage.

    `outcome = await scenario(deposit).given(Account, ada, Deposited(amount=5)).when(Deposit(account=ada, amount=3))`,
    then `outcome.then(Deposited(amount=3)).then_returns(8)`.
    """
    return Scenario(handler)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What has happened before, and who takes part. It is not changed by what is added: each addition gives another."""

    handler: Callable[..., object]
    streams: Mapping[str, tuple[AnyEvent, ...]] = field(default_factory=dict)
    doubles: Mapping[Any, object] = field(default_factory=dict)

    def given(self, aggregate: type[Aggregate], id: UUID, *history: AnyEvent) -> Scenario:
        """The aggregate with this id has recorded these events, after those that were given before."""
        found = aggregate(id)
        known = (*self.streams.get(found.stream, ()), *history)
        found.replay(known, len(known))  # a history that it cannot fold is a fault of the test
        return replace(self, streams={**self.streams, found.stream: known})

    def with_(self, wanted: object, double: object) -> Scenario:
        """Whoever asks for this type, be it a class or a protocol, gets this. `Clock` and `IdFactory` are real unless
        they are given; of `Metadata` the message takes everything but its id, time and cause.
        """
        return replace(self, doubles={**self.doubles, wanted: double})

    async def when(self, message: object, *, number_of_times: int = 1) -> HandlerOutcome:
        """Give the message to the handler, in a unit of work of its own each time: `number_of_times=2` shows that what
        is idempotent records no more than done once. It is over with the first error.

        The parameters of the handler are found as in an application, and what is wrong with them is the same
        RegistrationError. A repository knows the streams that were given, and no others. In-transaction handlers and
        behaviors are left out.
        """
        if number_of_times < 1:
            raise ValueError(f"it is done once or more often, not {number_of_times} times")
        stage = Stage(dict(self.streams))
        answer = self._answering(stage, type(message))
        result: object = None
        with self._metadata():
            for _ in range(number_of_times):
                try:
                    result = await answer(message)
                except OutOfReachError:
                    raise
                except Exception as error:  # noqa: BLE001  # whatever was raised is what the test is about
                    return HandlerOutcome(tuple(stage.happened), None, error)
        return HandlerOutcome(tuple(stage.happened), result, None)

    def _answering(self, stage: Stage, message_type: type) -> Callable[[object], Awaitable[object]]:
        """Compiled as by an application, with a kernel of its own."""
        known = {Clock: SystemClock(), IdFactory: Uuid7Factory(), **self.doubles}
        injector = Injector(stage.builtins(), [], {one: double for one, double in known.items() if one is not Metadata})
        compiler = Compiler(injector)
        kind = kind_of(message_type)
        if kind is None:
            compiler.compile_events([EventBinding(message_type, self.handler, "durable", "scenario", ())])
        else:
            compiler.compile_requests([RequestBinding(message_type, (self.handler,), ())], ())
        resolver = compiler.compile_job(give_resolver, object, ())
        if injector.problems or resolver is None:
            error = RegistrationError(injector.problems)
            error.add_note(
                "in a scenario, what an application's container would provide is given by with_(type, double)"
            )
            raise error
        (compiler.pipelines.resolver,) = resolver.bodies
        pipelines = compiler.attach(_kernel(stage, known[IdFactory], known[Clock], compiler.pipelines))
        if kind is None:
            return lambda message: _handle(pipelines, message)
        if kind == "stream":
            return lambda message: _collect(pipelines, message)
        return pipelines.requests[message_type]

    @contextmanager
    def _metadata(self) -> Iterator[None]:
        given = self.doubles.get(Metadata)
        if not isinstance(given, Metadata):
            yield
            return
        token = enter(Origin(given))
        try:
            yield
        finally:
            leave(token)


@dataclass(frozen=True, slots=True)
class HandlerOutcome:
    """What came of it. Something must be said of it, or an error would go unnoticed."""

    happened: tuple[tuple[str | None, AnyEvent], ...]
    """What was committed: (stream, event) in the order of the store; what was published has no stream."""
    result: object
    error: Exception | None

    def then(self, *expected: AnyEvent) -> HandlerOutcome:
        """These events were recorded and published, and no others: aggregate by aggregate as they were loaded, then
        what was published. None at all for `then()`.
        """
        self._require_success(told(expected))
        require_same(expected, [event for _, event in self.happened])
        return self

    def then_of(self, aggregate: type[Aggregate], id: UUID, *expected: AnyEvent) -> HandlerOutcome:
        """The aggregate recorded these events, in this order, and no others; of others nothing is said."""
        self._require_success(told(expected))
        stream = aggregate(id).stream
        require_same(expected, [event for one, event in self.happened if one == stream], where=f" in {stream}")
        return self

    def then_published(self, *expected: AnyEvent) -> HandlerOutcome:
        """These events were published without an aggregate, in this order, and no others."""
        self._require_success(told(expected))
        require_same(expected, [event for one, event in self.happened if one is None], where=" without an aggregate")
        return self

    def then_returns(self, expected: object) -> HandlerOutcome:
        """The message was answered by this; a stream, by a list of these."""
        self._require_success(f"the answer {expected!r}")
        if self.result != expected:
            raise AssertionError(f"the answer {expected!r} was expected, and it was {self.result!r}")
        return self

    def then_raises(self, error: type[X]) -> X:
        """It was refused by this error, and nothing was committed. Gives the error, to look at it."""
        require_raised(self.error, error, [event for _, event in self.happened])
        assert isinstance(self.error, error)  # noqa: S101  # for the checker: it was just required
        return self.error

    def _require_success(self, expected: str) -> None:
        if self.error is not None:
            raise AssertionError(f"it raised {self.error!r}, where {expected} was expected") from self.error


def _kernel(stage: Stage, ids: Any, clock: Any, pipelines: Pipelines) -> Kernel:
    return Kernel(ids, clock, stage.begin, _LIMITS, pipelines)


async def _handle(pipelines: Pipelines, event: object) -> None:
    """An event, as it is handled after it was received."""
    kernel, current = pipelines.kernel, holder()
    message_id, time = kernel.ids(), kernel.clock.now()
    unknown = Metadata(message_id=message_id, correlation_id=str(message_id), time=time)
    ((handling,),) = pipelines.durable.values()
    metadata = unknown if current is None else current.next(message_id, time)
    await pipelines.run(handling, event, metadata, _nothing_to_claim)


async def _collect(pipelines: Pipelines, request: object) -> list[object]:
    return [item async for item in pipelines.stream(request)]


async def _nothing_to_claim(_: Scope) -> None:
    return
