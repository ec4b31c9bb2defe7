import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from dependency_injector import containers, providers
from small_app import Unit, started

from cqrs_fastapi.errors import HandlerNotFoundError, ReadOnlyError
from cqrs_fastapi.mediation.behaviors import Next
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.handlers import StreamHandler
from cqrs_fastapi.mediation.pipelines import STREAM_AHEAD
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.requests import StreamRequest

pytestmark = pytest.mark.anyio


class Count(StreamRequest[int]):
    to: int


class Happened(Event):
    pass


class Cursor:
    pass


def counting(log: list[str]) -> RequestMap:
    requests = RequestMap()

    @requests.handles(Count)
    async def count(request: Count, unit: Unit) -> AsyncIterator[int]:
        try:
            for number in range(request.to):
                log.append(f"made {number}")
                yield number
        finally:
            log.append("handler ended")

    return requests


class CountHandler(StreamHandler[Count, int]):
    async def handle(self, request: Count, /) -> AsyncIterator[int]:
        for number in range(request.to):
            yield number


async def test_all_items_come_in_order_from_functions_and_classes() -> None:
    requests = RequestMap()
    requests.bind(Count, CountHandler)
    for each in (requests, counting([])):
        app = await started(each)
        assert [item async for item in app.mediator.stream(Count(to=100))] == list(range(100))
        assert "committed" not in app.world.endings


async def test_a_stream_without_a_handler_is_an_error() -> None:
    app = await started(RequestMap())
    with pytest.raises(HandlerNotFoundError):
        async for _ in app.mediator.stream(Count(to=1)):
            pass


async def test_a_behavior_surrounds_the_whole_iteration() -> None:
    log: list[str] = []

    async def around(message: object, call_next: Next, /) -> object:
        log.append("begin")
        result = await call_next(message)
        log.append("end")
        return result

    app = await started(counting(log), behaviors=[around])
    assert [item async for item in app.mediator.stream(Count(to=2))] == [0, 1]
    assert log == ["begin", "made 0", "made 1", "handler ended", "end"]


async def test_a_behavior_that_refuses_is_heard_by_the_reader() -> None:
    async def refuse(message: object, call_next: Next, /) -> object:
        raise PermissionError("no")

    log: list[str] = []
    app = await started(counting(log), behaviors=[refuse])
    with pytest.raises(PermissionError):
        await anext(app.mediator.stream(Count(to=2)))
    assert log == []


async def test_an_error_reaches_the_reader_after_the_items_before_it() -> None:
    requests = RequestMap()

    @requests.handles(Count)
    async def count(request: Count, unit: Unit) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ZeroDivisionError

    app = await started(requests)
    seen = []
    with pytest.raises(ZeroDivisionError):  # where the error comes is the case itself
        async for item in app.mediator.stream(Count(to=2)):
            seen.append(item)  # noqa: PERF401  # what came before the error must be kept
    assert seen == [1, 2]
    assert app.world.endings == ["rolled back"]


async def test_a_reader_that_leaves_early_ends_handler_generators_and_scope_in_order() -> None:
    log: list[str] = []

    async def open_cursor() -> AsyncIterator[Cursor]:
        log.append("cursor open")
        try:
            yield Cursor()
        finally:
            log.append("cursor closed")

    class Container(containers.DeclarativeContainer):
        cursor = providers.Factory(open_cursor)

    requests = RequestMap()

    @requests.handles(Count)
    async def count(request: Count, cursor: Cursor, unit: Unit) -> AsyncIterator[int]:
        try:
            for number in range(request.to):
                yield number
        finally:
            await asyncio.sleep(0)
            log.append("handler ended")

    app = await started(requests, container=Container())
    async with aclosing(app.mediator.stream(Count(to=1_000_000))) as items:  # type: ignore[type-var]  # it is an async generator
        async for item in items:
            if item == 3:
                break
    assert log == ["cursor open", "handler ended", "cursor closed"]
    assert app.world.endings == ["rolled back"]


async def test_a_reader_that_is_cancelled_ends_the_handler() -> None:
    log: list[str] = []
    app = await started(counting(log))
    reading = asyncio.Event()

    async def read() -> None:
        async with aclosing(app.mediator.stream(Count(to=1_000_000))) as items:  # type: ignore[type-var]  # it is an async generator
            async for _ in items:
                reading.set()
                await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log[-1] == "handler ended"


async def test_the_handler_is_only_a_bounded_number_of_items_ahead() -> None:
    log: list[str] = []
    app = await started(counting(log))
    async with aclosing(app.mediator.stream(Count(to=1_000_000))) as items:  # type: ignore[type-var]  # it is an async generator
        assert await anext(items) == 0
        for _ in range(10 * STREAM_AHEAD):
            await asyncio.sleep(0)
        assert STREAM_AHEAD <= len(log) <= STREAM_AHEAD + 3


async def test_a_stream_is_read_only() -> None:
    requests = RequestMap()

    @requests.handles(Count)
    async def count(request: Count, events: EventMediator) -> AsyncIterator[int]:
        await events.publish(Happened())
        yield 1

    app = await started(requests)
    with pytest.raises(ReadOnlyError):
        await anext(app.mediator.stream(Count(to=1)))


async def test_a_stream_has_metadata_of_its_own_and_leaves_that_of_the_reader_alone() -> None:
    requests = RequestMap()
    seen = []

    @requests.handles(Count)
    async def count(request: Count) -> AsyncIterator[int]:
        seen.append(Metadata.current())
        yield 1
        seen.append(Metadata.current())

    app = await started(requests)
    async for _ in app.mediator.stream(Count(to=1)):
        with pytest.raises(LookupError):
            Metadata.current()
    assert seen[0] is seen[1]
