"""The compiled pipelines: a table from the type of a message to the one function that handles it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import structlog

from cqrs_fastapi.errors import HandlerNotFoundError
from cqrs_fastapi.mediation.behaviors import Behavior, Next
from cqrs_fastapi.mediation.event_map import DEFAULT_POLICY, Effects, EventBinding, Predicate, Unknown, Validator
from cqrs_fastapi.mediation.failure_policy import FailurePolicy
from cqrs_fastapi.mediation.fallback import CircuitBreaker
from cqrs_fastapi.mediation.frame import Frame
from cqrs_fastapi.mediation.idempotency import Attempt, Recorded, Records
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.forms import Kind
from cqrs_fastapi.messages.metadata import Metadata, Received, enter, holder, leave

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.kernel import Begin, Guard, Kernel

log = structlog.get_logger("cqrs_fastapi")

Body: TypeAlias = Callable[[Any, Any], Any]
"""The generated function of one handler: scope (None if it needs none) and message."""
Send: TypeAlias = Callable[[Any], Coroutine[Any, Any, Any]]

STREAM_AHEAD = 32
"""How many items a stream's handler may be ahead of its reader."""


@dataclass(frozen=True, slots=True)
class Handling:
    """One binding, compiled. `bodies` has two entries for a Fallback."""

    message_type: type
    bodies: tuple[Body, ...]
    scoped: bool
    behaviors: tuple[Behavior, ...]
    kind: Kind | None = None
    on: tuple[type[Exception], ...] = ()
    breaker: CircuitBreaker | None = None
    consumer: str = ""
    from_start: bool = False
    unknown: Unknown = "hold"
    on_failure: FailurePolicy = DEFAULT_POLICY
    where: Predicate | None = None
    validate: Validator | None = None
    effects: Effects = "any"

    def wrapped(self, core: Next) -> Next:
        """The behaviors around `core`, outermost first."""
        return wrap(self.behaviors, core)

    def with_fallback(self, cores: Sequence[Next]) -> Next:
        """One core for all bodies: the only one, or the first with the second to fall back on."""
        return cores[0] if len(cores) == 1 else with_fallback(self, cores[0], cores[1])


class _NoRecords:
    async def find(self, _: Attempt, /) -> Recorded | None:
        raise RuntimeError("the pipelines were not given records")


@dataclass(slots=True)
class Pipelines:
    """Filled by the compiler; replaced as a whole when an override comes or goes."""

    requests: dict[type, Send] = field(default_factory=dict)
    nested: dict[type, Handling] = field(default_factory=dict)
    streams: dict[type, Handling] = field(default_factory=dict)
    in_transaction: dict[type, tuple[Handling, ...]] = field(default_factory=dict)
    durable: dict[type, tuple[Handling, ...]] = field(default_factory=dict)
    each_process: dict[type, tuple[Handling, ...]] = field(default_factory=dict)
    """Those that get what every process gets; they are in no other table."""
    records: Records = field(default_factory=_NoRecords)
    take_in: Callable[[AnyEvent, UUID, Metadata | None], Awaitable[None]] = field(default=lambda *_: _no_inbox())
    resolver: Body = field(default=lambda *_: _no_resolver())
    """Gives what resolves references, in a scope."""
    kernel: Kernel = field(init=False)

    def table_of(self, binding: EventBinding) -> dict[type, tuple[Handling, ...]]:
        """Where the handlings of an event belong that are bound like this."""
        if binding.when == "in_transaction":
            return self.in_transaction
        return self.each_process if binding.group == "each process" else self.durable

    def replace(self, other: Pipelines) -> None:
        """Take over what another compilation made, in place: mediators hold on to these tables."""
        for name in ("requests", "nested", "streams", "in_transaction", "durable", "each_process"):
            table = getattr(self, name)
            table.clear()
            table.update(getattr(other, name))
        self.resolver = other.resolver

    async def send_nested(self, scope: Scope, request: object) -> object:
        """Handle a request in the unit of work of another message."""
        scope.require_open()
        handling = self.nested.get(type(request))
        if handling is None:
            raise HandlerNotFoundError(type(request))
        if handling.kind == "command":
            scope.require_writable(f"sent the command {type(request).__name__}")
        body = handling.bodies[0]
        if handling.breaker is not None:
            body = _watched(body, handling) if handling.breaker.lets_through() else handling.bodies[1]
        scope.unit_of_work.draft()
        token = enter(Frame(self.kernel, holder()))
        try:
            answer = await handling.wrapped(_in_scope(body, scope))(request)
            scope.unit_of_work.draft()
            return answer
        except BaseException as error:
            scope.spoil(error)
            raise
        finally:
            leave(token)

    async def react(self, scope: Scope, event: AnyEvent, metadata: Metadata) -> None:
        """Give an event to its in-transaction handlers, in the order they were bound."""
        for handling in self.in_transaction.get(type(event), ()):
            token = enter(Received(metadata))
            try:
                await handling.wrapped(_in_scope(handling.bodies[0], scope))(event)
                scope.unit_of_work.draft()
            finally:
                leave(token)

    async def run(self, handling: Handling, message: object, metadata: Metadata, guard: Guard) -> None:
        """Handle a message that was received (or a job's tick) in a unit of work of its own, after `guard`."""

        async def core(message: object) -> object:
            return await self.kernel.run(handling.bodies[0], message, read_only=False, guard=guard)

        token = enter(Received(metadata))
        try:
            await handling.wrapped(core)(message)
        finally:
            leave(token)

    async def run_within(self, handling: Handling, message: object, metadata: Metadata, begin: Begin) -> None:
        """As `run`, in a unit of work that belongs to a transaction of the caller's. Call it in a task of the kernel's.

        The first error of the handler is raised whatever behaviors make of it: what it has left in the transaction is
        for the caller to undo, and must not be added to by another attempt.
        """
        failure: BaseException | None = None

        async def core(message: object) -> object:
            nonlocal failure
            if failure is not None:
                raise failure
            try:
                return await self.kernel.run_within(handling.bodies[0], message, begin)
            except BaseException as error:
                failure = error
                raise

        token = enter(Received(metadata))
        try:
            await handling.wrapped(core)(message)
        finally:
            leave(token)
        if failure is not None:
            raise failure

    async def stream(self, request: object) -> AsyncIterator[object]:
        """The items of a stream request, from a task that owns the scope."""
        handling = self.streams.get(type(request))
        if handling is None:
            raise HandlerNotFoundError(type(request))
        items: asyncio.Queue[object] = asyncio.Queue(STREAM_AHEAD)
        task = asyncio.get_running_loop().create_task(self._produce(handling, request, items))
        try:
            while (item := await items.get()) is not _END:
                yield item
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _produce(self, handling: Handling, request: object, items: asyncio.Queue[object]) -> None:
        async def core(message: object) -> object:
            await self.kernel.read(handling.bodies[0], message, items.put)
            return None

        enter(Frame(self.kernel, holder()))  # the task has a context of its own, which ends with it
        try:
            await handling.wrapped(core)(request)
        finally:
            # A reader that is gone cancels this task; one that is there must learn that nothing more comes.
            if (task := asyncio.current_task()) is None or not task.cancelling():
                await items.put(_END)


def wrap(behaviors: Sequence[Behavior], core: Next) -> Next:
    """Build the chain from the inside out."""
    chain = core
    for behavior in reversed(behaviors):
        chain = _layer(behavior, chain)
    return chain


def with_fallback(handling: Handling, primary: Next, fallback: Next) -> Next:
    """Try the primary unless its breaker is open; each call has a unit of work of its own."""
    breaker = handling.breaker

    async def call(message: object) -> object:
        if breaker is not None and not breaker.lets_through():
            return await fallback(message)
        try:
            result = await primary(message)
        except handling.on as error:
            if breaker is not None:
                breaker.failed()
            log.warning("fallback_used", message=type(message).__name__, error=repr(error))
            return await fallback(message)
        if breaker is not None:
            breaker.succeeded()
        return result

    return call


_END = object()


def _watched(body: Body, handling: Handling) -> Body:
    """The primary of a Fallback in a nested `send`: its error is the caller's, and the breaker learns how it went."""
    breaker = handling.breaker

    async def call(scope: Scope, message: object) -> object:
        try:
            result = await body(scope, message)
        except handling.on:
            if breaker is not None:
                breaker.failed()
            raise
        if breaker is not None:
            breaker.succeeded()
        return result

    return call


def _in_scope(body: Body, scope: Scope) -> Next:
    async def core(message: object) -> object:
        return await body(scope, message)

    return core


def _layer(behavior: Behavior, inner: Next) -> Next:
    def call(message: object) -> Awaitable[object]:
        return behavior(message, inner)

    return call


async def _no_resolver() -> None:
    raise RuntimeError("the pipelines were not given a resolver")


async def _no_inbox() -> None:
    raise RuntimeError("the pipelines were not given an inbox")
