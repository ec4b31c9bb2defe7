import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from prometheus_client import CollectorRegistry
from small_app import Unit, started
from structlog.testing import capture_logs

from cqrs_fastapi.errors import DomainError
from cqrs_fastapi.mediation.behaviors import Behavior
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.standard_behaviors import Check, Logging, Metrics, Timeout, Tracing
from cqrs_fastapi.messages.metadata import Metadata, Received, enter, leave
from cqrs_fastapi.messages.requests import Command, Query, StreamRequest
from cqrs_fastapi.telemetry import current_traceparent, remote_parent, tracing_is_on

pytestmark = pytest.mark.anyio

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Pay(Command[str]):
    card: str = "4111-secret"


class Outer(Command[str]):
    pass


class Look(Query[str]):
    pass


class Rows(StreamRequest[int]):
    pass


class RefusedError(DomainError):
    code = "refused"


async def pay(request: Pay, unit: Unit) -> str:
    unit.note("paid")
    return "paid"


async def refuse(request: Pay, unit: Unit) -> str:
    raise RefusedError(f"no: {request.card}")


def bound(handler: Any, *behaviors: Behavior) -> RequestMap:
    requests = RequestMap(behaviors=behaviors)
    requests.bind(Pay, handler)

    @requests.handles(Look)
    async def look(request: Look) -> str:
        return "seen"

    @requests.handles(Rows)
    async def rows(request: Rows) -> AsyncIterator[int]:
        yield 1

    return requests


# --- logging ---


def ticking() -> Callable[[], float]:
    times = iter(range(1, 100))
    return lambda: next(times) / 1000


async def test_a_message_is_logged_with_type_kind_outcome_and_milliseconds_only() -> None:
    app = await started(bound(pay, Logging(monotonic=ticking())))
    with capture_logs() as lines:
        await app.mediator.send(Pay())
        await app.mediator.send(Look())
        assert [row async for row in app.mediator.stream(Rows())] == [1]
    assert [(line["message"], line["kind"], line["outcome"], line["milliseconds"]) for line in lines] == [
        ("Pay", "command", "ok", 1.0),
        ("Look", "query", "ok", 1.0),
        ("Rows", "stream", "ok", 1.0),
    ]


async def test_a_failed_message_is_logged_by_the_code_of_its_error_without_anything_of_its_content() -> None:
    app = await started(bound(refuse, Logging()))
    with capture_logs() as lines, pytest.raises(RefusedError):
        await app.mediator.send(Pay())
    assert [line["outcome"] for line in lines] == ["refused"]
    assert "secret" not in str(lines)


async def test_a_message_whose_caller_left_is_logged_as_cancelled() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Pay, unit: Unit) -> str:
        reached.set()
        await go_on.wait()
        return "paid"

    app = await started(bound(slow, Logging()))
    with capture_logs() as lines:
        caller = asyncio.get_running_loop().create_task(app.mediator.send(Pay()))
        await reached.wait()
        caller.cancel()
        await asyncio.wait([caller])
        go_on.set()
        await app.kernel.drain(5)
    assert [line["outcome"] for line in lines] == ["cancelled"]


# --- tracing ---


@dataclass
class Span(NonRecordingSpan):
    name: str
    parent: SpanContext
    kind: SpanKind
    attributes: dict[str, Any]
    number: int
    errors: list[BaseException] = field(default_factory=list)
    status: Any = None
    ended: bool = False

    def get_span_context(self) -> SpanContext:
        trace_id = self.parent.trace_id or 1
        return SpanContext(trace_id, self.number, is_remote=False, trace_flags=TraceFlags(1))

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        self.errors.append(exception)

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = status

    def end(self, end_time: int | None = None) -> None:
        self.ended = True


class Recorder(trace.TracerProvider, trace.Tracer):
    """A tracer provider without an SDK."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self

    def start_span(  # type: ignore[override]  # the rest of the arguments does not matter here
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        **_: Any,
    ) -> trace.Span:
        parent = trace.get_current_span(context).get_span_context()
        self.spans.append(Span(name, parent, kind, dict(attributes), len(self.spans) + 1))
        return self.spans[-1]

    @contextmanager  # type: ignore[override]  # the agnostic one of the API is no different here
    def start_as_current_span(self, name: str, context: Context | None = None, **rest: Any) -> Iterator[trace.Span]:
        span = self.start_span(name, context, rest["kind"], rest["attributes"])
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield span


async def test_a_span_is_named_after_the_message_and_ends_with_it() -> None:
    recorder = Recorder()
    app = await started(bound(pay, Tracing(recorder)))
    await app.mediator.send(Pay())
    (span,) = recorder.spans
    assert (span.name, span.kind, span.ended, span.errors) == ("Pay", SpanKind.INTERNAL, True, [])
    assert span.attributes["cqrs.message.type"] == "Pay"
    assert span.attributes["cqrs.message.kind"] == "command"
    assert UUID(span.attributes["messaging.message.id"])
    assert "secret" not in str(span.attributes)


async def test_a_span_records_the_error() -> None:
    recorder = Recorder()
    app = await started(bound(refuse, Tracing(recorder)))
    with pytest.raises(RefusedError) as caught:
        await app.mediator.send(Pay())
    assert recorder.spans[0].errors == [caught.value]
    assert recorder.spans[0].status.status_code is trace.StatusCode.ERROR
    assert recorder.spans[0].status.description == "refused"


async def test_nested_messages_are_children_and_the_handler_runs_inside_of_the_span() -> None:
    recorder = Recorder()

    async def nested(request: Pay, unit: Unit) -> str:
        return str(current_traceparent())

    requests = bound(nested, Tracing(recorder))

    @requests.handles(Outer)
    async def outer(request: Outer, mediator: RequestMediator) -> str:
        return await mediator.send(Pay())

    app = await started(requests)
    assert await app.mediator.send(Outer()) == f"00-{1:032x}-{2:016x}-01"
    assert recorder.spans[1].parent.span_id == recorder.spans[0].number


async def test_a_message_from_elsewhere_continues_the_trace_it_carries() -> None:
    recorder = Recorder()
    app = await started(bound(pay, Tracing(recorder)))
    known = Metadata(
        message_id=UUID(int=1), correlation_id="c", time=datetime(2026, 1, 1, tzinfo=UTC), traceparent=TRACEPARENT
    )
    token = enter(Received(known))
    await app.mediator.send(Pay())
    with trace.use_span(NonRecordingSpan(SpanContext(7, 8, is_remote=False))):
        await app.mediator.send(Pay())
    leave(token)
    remote, local = (span.parent for span in recorder.spans)
    assert f"{remote.trace_id:032x}-{remote.span_id:016x}" == TRACEPARENT[3:-3]
    assert (local.trace_id, local.span_id) == (7, 8)


def test_without_an_sdk_tracing_is_off_and_nothing_is_sent_along() -> None:
    assert not tracing_is_on()
    assert current_traceparent() is None


def test_with_a_tracer_provider_tracing_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", Recorder)
    assert tracing_is_on()


@pytest.mark.parametrize("traceparent", [None, "", "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(traceparent: str | None) -> None:
    context = remote_parent(traceparent)
    assert (
        trace.get_current_span(context) is INVALID_SPAN
        or not trace.get_current_span(context).get_span_context().is_valid
    )


# --- metrics ---


async def test_messages_are_counted_and_timed_by_type_kind_and_outcome() -> None:
    registry = CollectorRegistry()
    app = await started(bound(refuse, Metrics(registry, monotonic=ticking())))
    await app.mediator.send(Look())
    for _ in range(2):
        with pytest.raises(RefusedError):
            await app.mediator.send(Pay())

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("cqrs_messages_total", message="Look", kind="query", outcome="ok") == 1
    assert value("cqrs_messages_total", message="Pay", kind="command", outcome="refused") == 2
    assert value("cqrs_message_seconds_count", message="Pay", kind="command") == 2
    assert value("cqrs_message_seconds_sum", message="Pay", kind="command") == pytest.approx(0.002)


async def test_applications_that_share_a_registry_share_its_metrics_and_others_do_not() -> None:
    registry, other = CollectorRegistry(), CollectorRegistry()
    for each in (registry, registry, other):
        app = await started(bound(pay, Metrics(each)))
        await app.mediator.send(Pay())
    labels = {"message": "Pay", "kind": "command", "outcome": "ok"}
    assert registry.get_sample_value("cqrs_messages_total", labels) == 2
    assert other.get_sample_value("cqrs_messages_total", labels) == 1


# --- timeout ---


async def never(request: Pay, unit: Unit) -> str:
    await asyncio.Event().wait()
    return "never"


async def never_without_a_unit(request: Pay) -> str:
    await asyncio.Event().wait()
    return "never"


@pytest.mark.parametrize("handler", [never, never_without_a_unit])
async def test_a_message_that_takes_too_long_is_rolled_back(handler: Any) -> None:
    app = await started(bound(handler, Timeout(60), Timeout(0.01)))
    with pytest.raises(TimeoutError):
        await app.mediator.send(Pay())
    assert app.world.endings == (["rolled back"] if handler is never else [])


async def test_a_nested_message_that_takes_too_long_rolls_the_outer_one_back() -> None:
    requests = bound(never, Timeout(0.01))
    outermost = RequestMap()
    outermost.include(requests)

    @outermost.handles(Outer)
    async def outer(request: Outer, mediator: RequestMediator) -> str:
        return await mediator.send(Pay())

    app = await started(outermost)
    with pytest.raises(TimeoutError):
        await app.mediator.send(Outer())
    assert app.world.endings == ["rolled back"]


async def test_a_commit_that_has_begun_is_waited_for() -> None:
    app = await started(bound(pay, Timeout(0.01)))

    async def slowly() -> None:
        await asyncio.sleep(0.05)

    app.world.committing = slowly
    assert await app.mediator.send(Pay()) == "paid"
    assert app.world.committed == ["paid"]


# --- checks ---


async def test_a_check_refuses_before_the_handler_is_reached() -> None:
    checks = Check(Pay, lambda request: request.card != "stolen", lambda: RefusedError("the card is stolen"))
    app = await started(bound(pay, checks))
    with pytest.raises(RefusedError, match="the card is stolen"):
        await app.mediator.send(Pay(card="stolen"))
    assert app.world.units == []
    assert await app.mediator.send(Pay(card="mine")) == "paid"


async def test_a_check_lets_messages_of_other_classes_pass() -> None:
    app = await started(bound(pay, Check(Pay, lambda _: False)))
    assert await app.mediator.send(Look()) == "seen"
    with pytest.raises(DomainError):
        await app.mediator.send(Pay())
