"""Where a request comes from: its conversation, its trace, and whom it is made for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.messages.metadata import Metadata, enter, leave

Identity = Callable[[HTTPConnection], tuple[str | None, str | None]]
"""Says for whom a request is made: (user, tenant), as authentication has established them, never as a header claims.

It is called when a message asks, so after the middleware and the dependencies that authenticate. It is called again
for each message: it must be cheap. What it raises, an HTTPException for instance, is raised by the message's sending.
"""

_ORIGIN: Final = "cqrs_fastapi.origin"
_SERVED: Final = frozenset(("http", "websocket"))
_STARTS: Final = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_READ: Final = frozenset((b"x-correlation-id", b"x-request-id", b"traceparent"))
_CORRELATION_ID: Final = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
# W3C Trace Context: version ff is forbidden, and identifiers of zeros only mean that there is none.
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class RequestOrigin:
    """The origin of the messages of one request. As cheap as can be: times and identifiers are drawn when asked for."""

    __slots__ = ("_clock", "_ids", "_message_id", "_scope", "_time", "correlation_id", "identify", "traceparent")

    def __init__(  # noqa: PLR0917  # made for every request, where keywords cost a microsecond
        self,
        ids: IdFactory,
        clock: Clock,
        identify: Identity | None,
        scope: Scope,
        correlation_id: str | None,
        traceparent: str | None,
    ) -> None:
        self._ids, self._clock, self.identify = ids, clock, identify
        # The scope holds this too, and what is in a cycle waits for the garbage collector.
        self._scope = None if identify is None else scope
        self._message_id = ids() if correlation_id is None else None
        self._time: datetime | None = None
        self.correlation_id = str(self._message_id) if correlation_id is None else correlation_id
        self.traceparent = traceparent

    @property
    def metadata(self) -> Metadata:
        """One identifier and one time per request; user and tenant as they are known at this moment."""
        if self._message_id is None:
            self._message_id = self._ids()
        if self._time is None:
            self._time = self._clock.now()
        return self.next(self._message_id, self._time)

    def next(self, message_id: UUID, time: datetime) -> Metadata:
        user, tenant = self._identified()
        return Metadata(
            message_id=message_id,
            correlation_id=self.correlation_id,
            time=time,
            user=user,
            tenant=tenant,
            traceparent=self.traceparent,
        )

    def _identified(self) -> tuple[str | None, str | None]:
        if self.identify is None or self._scope is None:
            return None, None
        return self.identify(HTTPConnection(self._scope))


class RequestContextMiddleware:
    """Makes the request's origin current for everything below it, and answers with `X-Correlation-ID`."""

    def __init__(self, app: ASGIApp, *, ids: IdFactory, clock: Clock, identify: Identity | None) -> None:
        self.app, self._ids, self._clock, self._identify = app, ids, clock, identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _SERVED:
            await self.app(scope, receive, send)
            return
        outer: RequestOrigin | None = scope.get(_ORIGIN)
        origin = scope[_ORIGIN] = self._begin(scope) if outer is None else self._continue(outer, scope)
        token = enter(origin)
        try:
            await self.app(scope, receive, _labelled(send, origin.correlation_id) if outer is None else send)
        finally:
            leave(token)
            scope[_ORIGIN] = outer or origin

    def _begin(self, scope: Scope) -> RequestOrigin:
        correlation_id, traceparent = _read(scope["headers"])
        return RequestOrigin(self._ids, self._clock, self._identify, scope, correlation_id, traceparent)

    def _continue(self, outer: RequestOrigin, scope: Scope) -> RequestOrigin:
        """In a mounted application with an extension of its own the conversation goes on."""
        identify = self._identify or outer.identify
        return RequestOrigin(self._ids, self._clock, identify, scope, outer.correlation_id, outer.traceparent)


def correlation_id_of(scope: Scope) -> str | None:
    """The correlation id of a request; None where no extension has seen it."""
    origin = scope.get(_ORIGIN)
    return origin.correlation_id if isinstance(origin, RequestOrigin) else None


def _labelled(send: Send, correlation_id: str) -> Send:
    header = (b"x-correlation-id", correlation_id.encode("ascii"))

    async def labelled(message: Message) -> None:
        if message["type"] in _STARTS:
            message["headers"] = [*message.get("headers", ()), header]
        await send(message)

    return labelled


def _read(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str | None]:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _READ:
            found.setdefault(name, value)
    if not found:
        return None, None
    correlation_id = _matching(_CORRELATION_ID, found.get(b"x-correlation-id")) or _matching(
        _CORRELATION_ID, found.get(b"x-request-id")
    )
    return correlation_id, _matching(_TRACEPARENT, found.get(b"traceparent"))


def _matching(pattern: re.Pattern[bytes], value: bytes | None) -> str | None:
    return value.decode("ascii") if value is not None and pattern.fullmatch(value) else None
