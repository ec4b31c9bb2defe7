"""Sends requests to their handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cqrs_fastapi.errors import HandlerNotFoundError
from cqrs_fastapi.messages.requests import Request, StreamRequest

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.kernel import Kernel
    from cqrs_fastapi.mediation.scope import Scope

R = TypeVar("R")


class RequestMediator:
    """The application's own opens a unit of work for each `send`; the one injected into a handler joins its own."""

    __slots__ = ("_kernel", "_scope", "_sends")

    def __init__(self, kernel: Kernel, scope: Scope | None) -> None:
        self._kernel = kernel
        self._scope = scope
        self._sends = kernel.pipelines.requests

    def send(self, request: Request[R], /) -> Coroutine[Any, Any, R]:
        """Have the request answered. Returns after the commit; an error means that nothing was committed, except
        UnknownOutcomeError.

        Raises HandlerNotFoundError, ConcurrencyError (after retries), UnavailableError, what the handler raises, and
        TimeoutError when the handler outlasts `command_timeout`. In a handler the request joins the unit of work of
        the message being handled, and an error makes that one roll back too.
        """
        if self._scope is not None:
            return cast("Coroutine[Any, Any, R]", self._kernel.pipelines.send_nested(self._scope, request))
        try:
            pipeline = self._sends[type(request)]
        except KeyError:
            raise HandlerNotFoundError(type(request)) from None
        return pipeline(request)

    def stream(self, request: StreamRequest[R], /) -> AsyncIterator[R]:
        """Have the request answered piece by piece; its read-only scope is open until the iteration ends.

        Use `contextlib.aclosing` around it when the iteration may be left early.
        """
        if self._scope is not None:
            self._scope.require_open()
        return cast("AsyncIterator[R]", self._kernel.pipelines.stream(request))
