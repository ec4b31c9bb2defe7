"""Sends requests to their handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cqrs_fastapi.errors import HandlerNotFoundError
from cqrs_fastapi.mediation.idempotency import send_once
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

    def send(self, request: Request[R], /, *, idempotency_key: str | None = None) -> Coroutine[Any, Any, R]:
        """Have the request answered. Returns after the commit; an error means that nothing was committed, except
        UnknownOutcomeError.

        A command with an `idempotency_key` is carried out at most once for its tenant and user, however often it is
        sent, at the same time or after an unknown outcome: each is answered as the first, from a record that is
        written with the command's effects. IdempotencyKeyReusedError: the same key with another content. Records are
        deleted after `retention`. Inside of a handler a key is a TypeError: the outermost command's covers all of it.

        Raises HandlerNotFoundError, ConcurrencyError (after retries), UnavailableError, what the handler raises, and
        TimeoutError when the handler outlasts `command_timeout`. In a handler the request joins the unit of work of
        the message being handled, and an error makes that one roll back too.
        """
        if idempotency_key is not None:
            return cast("Coroutine[Any, Any, R]", self._send_once(request, idempotency_key))
        if self._scope is not None:
            return cast("Coroutine[Any, Any, R]", self._kernel.pipelines.send_nested(self._scope, request))
        try:
            pipeline = self._sends[type(request)]
        except KeyError:
            raise HandlerNotFoundError(type(request)) from None
        return pipeline(request)

    def _send_once(self, request: object, key: str) -> Coroutine[Any, Any, object]:
        if self._scope is not None:
            raise TypeError(
                "the idempotency key of the outermost command covers what its handler sends; leave this out"
            )
        return send_once(self._kernel.pipelines, request, key)

    def stream(self, request: StreamRequest[R], /) -> AsyncIterator[R]:
        """Have the request answered piece by piece; its read-only scope is open until the iteration ends.

        Use `contextlib.aclosing` around it when the iteration may be left early.
        """
        if self._scope is not None:
            self._scope.require_open()
        return cast("AsyncIterator[R]", self._kernel.pipelines.stream(request))
