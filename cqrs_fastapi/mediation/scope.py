"""What lives as long as one outermost message: its unit of work, and what generator providers opened for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import Connection

from cqrs_fastapi.errors import ReadOnlyError, ScopeClosedError
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.requests import Request

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.event_mediator import EventMediator
    from cqrs_fastapi.mediation.idempotency import Attempt
    from cqrs_fastapi.mediation.kernel import Kernel
    from cqrs_fastapi.mediation.request_mediator import RequestMediator


R = TypeVar("R")

_CURRENT: ContextVar[Scope | None] = ContextVar("cqrs_scope", default=None)


class UnitOfWorkPort(Protocol):
    """What a scope needs of a unit of work. It begins lazily: without work, nothing of this touches a database."""

    spoiled: BaseException | None
    """The error of a nested message, after which nothing of this may be committed."""

    def publish(self, event: AnyEvent, /) -> None:
        """Add an event that belongs to no aggregate."""
        ...

    def join(self, work: Callable[[Connection], None], /, *, sends: bool = False) -> None:
        """Run `work` in the transaction of the commit, before anything else of it. One that `sends` has put something
        into the outbox.
        """
        ...

    def remember(self, attempt: Attempt, response: str, /) -> None:
        """Write, in the transaction of the commit, that this attempt was answered with `response`."""
        ...

    def draft(self) -> None:
        """What was recorded until now came of the message being handled now."""
        ...

    async def prepare(self, scope: Scope, /) -> None:
        """Run in-transaction handlers until no new event appears. May be cancelled; nothing is committed yet."""
        ...

    async def commit(self) -> None:
        """Write everything in one transaction and return when it is durable."""
        ...

    async def rollback(self) -> None:
        """Leave nothing behind."""
        ...


class Scope:
    """Owned by one task of the framework's; used after its end it raises ScopeClosedError."""

    __slots__ = (
        "_closed",
        "_event_mediator",
        "_exits",
        "_mediator",
        "_opened",
        "_opening",
        "_token",
        "kernel",
        "read_only",
        "unit_of_work",
    )

    def __init__(self, kernel: Kernel, begin: Callable[[Scope], UnitOfWorkPort], *, read_only: bool) -> None:
        self.kernel = kernel
        self.read_only = read_only
        self.unit_of_work = begin(self)
        self._closed = False
        self._exits: AsyncExitStack | None = None
        self._opened: dict[object, Any] = {}
        self._opening: dict[object, asyncio.Lock] = {}
        self._mediator: RequestMediator | None = None
        self._event_mediator: EventMediator | None = None
        self._token: Token[Scope | None] = _CURRENT.set(self)

    @property
    def mediator(self) -> RequestMediator:
        """Joins this scope's unit of work."""
        if self._mediator is None:
            self._mediator = self.kernel.mediator_of(self)
        return self._mediator

    @property
    def event_mediator(self) -> EventMediator:
        """Joins this scope's unit of work."""
        if self._event_mediator is None:
            self._event_mediator = self.kernel.event_mediator_of(self)
        return self._event_mediator

    async def enter(self, key: object, start: Callable[[], Awaitable[Any]]) -> Any:
        """The value of the generator that `start` gives: opened once in this scope, closed with it, last in, first out.

        Handlers of one scope that run at the same time wait for the one that opens it.
        """
        if key not in self._opened:
            async with self._opening.setdefault(key, asyncio.Lock()):
                if key not in self._opened:
                    self.require_open()
                    self._opened[key] = await self._open(await start())
        return self._opened[key]

    async def _open(self, generator: Any) -> Any:
        if self._exits is None:
            self._exits = AsyncExitStack()
        if inspect.isasyncgen(generator):
            return await self._exits.enter_async_context(asynccontextmanager(lambda: generator)())
        return self._exits.enter_context(contextmanager(lambda: generator)())

    async def send(self, request: Request[R], /) -> R:
        """Have a request answered in this scope; committed when the scope ends."""
        return await self.mediator.send(request)

    async def publish(self, event: AnyEvent, /) -> None:
        """Make an event known when this scope is committed."""
        await self.event_mediator.publish(event)

    def require_open(self) -> None:
        if self._closed:
            raise ScopeClosedError(
                "this mediator belongs to a unit of work that has ended: await everything before the handler returns, "
                "or send from the outside by the application's own mediator"
            )

    def require_writable(self, what: str) -> None:
        if self.read_only:
            raise ReadOnlyError(f"a query {what}; queries change nothing: make it a command")

    def spoil(self, error: BaseException) -> None:
        """A nested message failed: whatever the outer handler makes of it, nothing of this scope is committed, unless
        a savepoint that was set before undoes what the message has done.
        """
        if self.unit_of_work.spoiled is None:
            self.unit_of_work.spoiled = error

    def require_unspoiled(self) -> None:
        """Raise the error of the nested message that failed, if one did."""
        if self.unit_of_work.spoiled is not None:
            raise self.unit_of_work.spoiled

    async def close(self, error: BaseException | None) -> None:
        """Close what generators opened, telling them how it ended."""
        self._closed = True
        _CURRENT.reset(self._token)
        self._mediator = self._event_mediator = None
        if self._exits is not None:
            await self._exits.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)


def current_scope() -> Scope | None:
    """The scope in which this code runs, nested messages included; a task left behind may find one that has ended."""
    return _CURRENT.get()
