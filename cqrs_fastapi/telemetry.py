"""What this library asks of OpenTelemetry. Without an SDK everything here answers cheaply that there is nothing."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()
_HEADER = "traceparent"


def tracing_is_on() -> bool:
    """Whether the application has configured a tracer provider that records; to be asked at start, not at import."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def current_traceparent() -> str | None:
    """The W3C `traceparent` of the current span, for messages that leave the process; None outside of a trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(_HEADER)


def remote_parent(traceparent: str | None) -> Context | None:
    """The context in which a span continues somebody else's trace. None, which is the current context, when a span is
    under way already, when there is no `traceparent`, or when it is not one.
    """
    if traceparent is None or trace.get_current_span().get_span_context().is_valid:
        return None
    return _W3C.extract({_HEADER: traceparent})
