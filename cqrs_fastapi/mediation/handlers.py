"""What answers a message: classes with a `handle`, or plain async functions whose further parameters are injected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Concatenate, Generic, ParamSpec, TypeAlias, TypeVar

Req = TypeVar("Req")
Res = TypeVar("Res")
E_contra = TypeVar("E_contra", contravariant=True)
P = ParamSpec("P")


class RequestHandler(ABC, Generic[Req, Res]):
    """Answers a command or a query. An instance is made for each message; its constructor's parameters are injected."""

    @abstractmethod
    async def handle(self, request: Req, /) -> Res:
        """Answer the request; what it changed is committed after this returns, and only if it does."""


class StreamHandler(ABC, Generic[Req, Res]):
    """Answers a stream request piece by piece, while its scope is open."""

    @abstractmethod
    def handle(self, request: Req, /) -> AsyncIterator[Res]:
        """Yield the items: an async generator."""


class EventHandler(ABC, Generic[E_contra]):
    """Reacts to an event."""

    @abstractmethod
    async def handle(self, event: E_contra, /) -> None:
        """React; what it changed is committed after this returns, and only if it does."""


RequestFunction: TypeAlias = Callable[Concatenate[Req, P], Awaitable[Res]]
StreamFunction: TypeAlias = Callable[Concatenate[Req, P], AsyncIterator[Res]]
NextHandler: TypeAlias = Callable[[Req], Awaitable[Res]]
"""The rest of a chain of responsibility: a handler in a list asks for it by `NextHandler[Refund, Receipt]`."""
