"""Which handler answers which request. Maps are included in one another as routers are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from cqrs_fastapi.mediation.behaviors import Behavior
from cqrs_fastapi.mediation.fallback import Fallback
from cqrs_fastapi.mediation.handlers import RequestFunction, RequestHandler, StreamFunction, StreamHandler
from cqrs_fastapi.messages.requests import RequestType, StreamRequestType

Req = TypeVar("Req")
Res = TypeVar("Res")
P = ParamSpec("P")

AnyRequestHandler: TypeAlias = type[RequestHandler[Req, Res]] | RequestFunction[Req, ..., Res]


@dataclass(frozen=True, slots=True)
class RequestBinding:
    """One line of a map, checked when the maps are frozen. `handlers` has several entries for a chain."""

    request_type: type
    handlers: tuple[object, ...]
    behaviors: tuple[Behavior, ...]
    on: tuple[type[Exception], ...] = ()
    breaker: object = None
    is_fallback: bool = False


class RequestMap:
    """Bindings in the making. Nothing is checked here: all problems are told at once when the application starts."""

    def __init__(self, *, behaviors: Sequence[Behavior] = ()) -> None:
        self._behaviors = tuple(behaviors)
        self._bindings: list[RequestBinding] = []
        self._included: list[RequestMap] = []

    @overload
    def bind(
        self,
        request: RequestType[Req, Res],
        handler: type[RequestHandler[Req, Res]],
        /,
        *,
        behaviors: Sequence[Behavior] = (),
    ) -> None: ...
    @overload
    def bind(
        self, request: RequestType[Req, Res], handler: Fallback[Req, Res], /, *, behaviors: Sequence[Behavior] = ()
    ) -> None: ...
    @overload
    def bind(
        self,
        request: RequestType[Req, Res],
        handler: Callable[Concatenate[Req, P], Awaitable[Res]],
        /,
        *,
        behaviors: Sequence[Behavior] = (),
    ) -> None: ...
    @overload
    def bind(
        self,
        request: RequestType[Req, Res],
        handler: Sequence[AnyRequestHandler[Req, Res]],
        /,
        *,
        behaviors: Sequence[Behavior] = (),
    ) -> None: ...
    @overload
    def bind(
        self,
        request: StreamRequestType[Req, Res],
        handler: type[StreamHandler[Req, Res]],
        /,
        *,
        behaviors: Sequence[Behavior] = (),
    ) -> None: ...
    @overload
    def bind(
        self,
        request: StreamRequestType[Req, Res],
        handler: StreamFunction[Req, P, Res],
        /,
        *,
        behaviors: Sequence[Behavior] = (),
    ) -> None: ...
    def bind(self, request: object, handler: object, /, *, behaviors: Sequence[Behavior] = ()) -> None:
        """Let `handler` answer `request`: a class, a function, a list (chain of responsibility) or a Fallback."""
        self._bindings.append(_binding(request, handler, tuple(behaviors)))

    @overload
    def handles(
        self, request: RequestType[Req, Res], /, *, behaviors: Sequence[Behavior] = ()
    ) -> BindsRequest[Req, Res]: ...
    @overload
    def handles(
        self, request: StreamRequestType[Req, Res], /, *, behaviors: Sequence[Behavior] = ()
    ) -> BindsStream[Req, Res]: ...
    def handles(self, request: object, /, *, behaviors: Sequence[Behavior] = ()) -> object:
        """`bind` as a decorator of a class or a function, which stays as it was."""

        def register(handler: object) -> object:
            self._bindings.append(_binding(request, handler, tuple(behaviors)))
            return handler

        return register

    def include(self, other: RequestMap) -> None:
        """Take over all bindings of another map, also those it gets later, inside this map's behaviors."""
        self._included.append(other)

    def bindings(self) -> list[RequestBinding]:
        """All bindings, with the behaviors of the maps around them outermost."""
        inner = [*self._bindings]
        for other in self._included:
            inner.extend(other.bindings())
        return [replace(binding, behaviors=(*self._behaviors, *binding.behaviors)) for binding in inner]


class BindsRequest(Protocol, Generic[Req, Res]):
    """The decorator of `handles` for commands and queries."""

    @overload
    def __call__(self, handler: type[RequestHandler[Req, Res]], /) -> type[RequestHandler[Req, Res]]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[Req, P], Coroutine[Any, Any, Res]], /
    ) -> Callable[Concatenate[Req, P], Coroutine[Any, Any, Res]]: ...


class BindsStream(Protocol, Generic[Req, Res]):
    """The decorator of `handles` for stream requests."""

    @overload
    def __call__(self, handler: type[StreamHandler[Req, Res]], /) -> type[StreamHandler[Req, Res]]: ...
    @overload
    def __call__(self, handler: StreamFunction[Req, P, Res], /) -> StreamFunction[Req, P, Res]: ...


def _binding(request: object, handler: object, behaviors: tuple[Behavior, ...]) -> RequestBinding:
    if not isinstance(request, type):
        raise TypeError(f"bind takes the class of a request first, not {request!r}")
    if isinstance(handler, Fallback):
        pair = (handler.primary, handler.fallback)
        return RequestBinding(request, pair, behaviors, handler.on, handler.breaker, is_fallback=True)
    handlers = tuple(handler) if isinstance(handler, list | tuple) else (handler,)
    return RequestBinding(request, handlers, behaviors)
