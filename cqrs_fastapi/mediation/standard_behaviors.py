"""Behaviors that come with the library. Each is an ordinary one: give it to the application, a map or a binding."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from cqrs_fastapi.errors import CqrsError, DomainError
from cqrs_fastapi.mediation.behaviors import Next
from cqrs_fastapi.mediation.deadline import within
from cqrs_fastapi.messages.events import EventDefinition
from cqrs_fastapi.messages.forms import kind_of
from cqrs_fastapi.messages.metadata import holder
from cqrs_fastapi.telemetry import remote_parent

M = TypeVar("M")

log = structlog.get_logger("cqrs_fastapi")


class Logging:
    """One line for each message: type, kind, outcome, milliseconds. Never its fields, nor the text of an error, which
    may repeat them.
    """

    __slots__ = ("_clock",)

    def __init__(self, *, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self._clock = monotonic

    async def __call__(self, message: object, call_next: Next, /) -> object:
        started = self._clock()
        outcome = "ok"
        try:
            return await call_next(message)
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            milliseconds = round((self._clock() - started) * 1000, 3)
            name, kind = type(message).__name__, kind_of_message(type(message))
            log.info("message_handled", message=name, kind=kind, outcome=outcome, milliseconds=milliseconds)


class Tracing:
    """A span for each message, named after its class. It continues the trace of the message's `traceparent` when no
    span is under way; an error marks it as failed and is recorded.
    """

    __slots__ = ("_tracer",)

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        """`provider` defaults to the one that is configured when the first message comes."""
        self._tracer = trace.get_tracer("cqrs_fastapi", tracer_provider=provider)

    async def __call__(self, message: object, call_next: Next, /) -> object:
        name, kind = type(message).__name__, kind_of_message(type(message))
        current = holder()
        attributes: dict[str, str] = {"cqrs.message.type": name, "cqrs.message.kind": kind}
        if current is not None:
            attributes["messaging.message.id"] = str(current.metadata.message_id)
            attributes["messaging.message.conversation_id"] = current.metadata.correlation_id
        with self._tracer.start_as_current_span(
            name,
            context=remote_parent(current.metadata.traceparent) if current is not None else None,
            kind=SpanKind.CONSUMER if kind == "event" else SpanKind.INTERNAL,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return await call_next(message)
            except BaseException as error:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, outcome_of(error)))
                raise


@dataclass(frozen=True, slots=True)
class _Instruments:
    messages: Counter
    seconds: Histogram


_INSTRUMENTS: WeakKeyDictionary[CollectorRegistry, _Instruments] = WeakKeyDictionary()
"""A registry refuses a second metric of one name, so several applications that share a registry share its metrics."""


class Metrics:
    """`cqrs_messages_total{message,kind,outcome}` and `cqrs_message_seconds{message,kind}` in a Prometheus registry."""

    __slots__ = ("_clock", "_instruments")

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, *, monotonic: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = monotonic
        self._instruments = _instruments_of(registry)

    async def __call__(self, message: object, call_next: Next, /) -> object:
        name, kind = type(message).__name__, kind_of_message(type(message))
        started = self._clock()
        outcome = "ok"
        try:
            return await call_next(message)
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._instruments.seconds.labels(name, kind).observe(self._clock() - started)
            self._instruments.messages.labels(name, kind, outcome).inc()


@dataclass(frozen=True, slots=True)
class Timeout:
    """Raises TimeoutError when the message is not ready to commit after `seconds`; nothing is committed then. A commit
    that has begun is waited for. `command_timeout` still holds if it is shorter.
    """

    seconds: float

    async def __call__(self, message: object, call_next: Next, /) -> object:
        async with within(self.seconds):
            return await call_next(message)


@dataclass(frozen=True, slots=True)
class Check(Generic[M]):
    """Refuses a message before its handler is reached: `Check(Transfer, lambda t: t.amount > 0, NotPositiveError)`.

    Messages of other classes pass; `refusal` makes the error, so that each caller gets one of its own.
    """

    message_type: type[M]
    predicate: Callable[[M], bool]
    refusal: Callable[[], DomainError] = field(default=DomainError)

    async def __call__(self, message: object, call_next: Next, /) -> object:
        if isinstance(message, self.message_type) and not self.predicate(message):
            raise self.refusal()
        return await call_next(message)


def kind_of_message(message_type: type) -> str:
    """`command`, `query`, `stream`, `event`, or `message` for anything else, such as a job's tick."""
    if isinstance(getattr(message_type, "__event__", None), EventDefinition):
        return "event"
    return kind_of(message_type) or "message"


def outcome_of(error: BaseException) -> str:
    """A short stable word for an error: its code if it is one of the library's, else the name of its class."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return error.code if isinstance(error, CqrsError) else type(error).__name__


def _instruments_of(registry: CollectorRegistry) -> _Instruments:
    if registry not in _INSTRUMENTS:
        _INSTRUMENTS[registry] = _Instruments(
            Counter("cqrs_messages_total", "Messages handled.", ("message", "kind", "outcome"), registry=registry),
            Histogram("cqrs_message_seconds", "Seconds to handle a message.", ("message", "kind"), registry=registry),
        )
    return _INSTRUMENTS[registry]
