import asyncio
from dataclasses import dataclass

import msgspec
import pytest
from small_app import Session, Unit, started

from cqrs_fastapi.errors import (
    ConcurrencyError,
    DomainError,
    HandlerNotFoundError,
    OverloadedError,
    ReadOnlyError,
    ScopeClosedError,
)
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.handlers import RequestHandler
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.forms import command, query
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.requests import Command, Query, Request

pytestmark = pytest.mark.anyio


class Outer(Command[str]):
    text: str = "outer"


class Inner(Command[str]):
    text: str = "inner"


class Ask(Query[int]):
    pass


class Happened(Event):
    pass


class RefusedError(DomainError):
    code = "refused"


@command
@dataclass(frozen=True)
class Plain(Request[str]):
    text: str


@query
class Packed(msgspec.Struct, Request[str], frozen=True):
    text: str


def conflict(*, retryable: bool = True) -> ConcurrencyError:
    return ConcurrencyError(stream="s", expected="version 1", actual=2, retryable=retryable)


async def inner(request: Inner, unit: Unit) -> str:
    unit.note(request.text)
    return request.text


async def test_every_form_of_request_reaches_its_handler() -> None:
    requests = RequestMap()

    class OuterHandler(RequestHandler[Outer, str]):
        async def handle(self, request: Outer, /) -> str:
            return request.text

    @requests.handles(Plain)
    async def plain(request: Plain) -> str:
        return request.text

    class Handlers:
        async def packed(self, request: Packed) -> str:
            return request.text

        async def __call__(self, request: Inner) -> str:
            return request.text

    requests.bind(Outer, OuterHandler)
    requests.bind(Packed, Handlers().packed)
    requests.bind(Inner, Handlers())
    mediator = (await started(requests)).mediator
    assert await mediator.send(Outer(text="class")) == "class"
    assert await mediator.send(Plain("function")) == "function"
    assert await mediator.send(Packed("method")) == "method"
    assert await mediator.send(Inner(text="object")) == "object"


async def test_a_request_without_a_handler_is_an_error_that_says_what_to_write() -> None:
    app = await started(RequestMap())
    with pytest.raises(HandlerNotFoundError, match=r"requests\.bind\(Outer, your_handler\)"):
        await app.mediator.send(Outer())


async def test_a_subclass_of_a_request_is_another_request() -> None:
    class Later(Inner):
        pass

    requests = RequestMap()
    requests.bind(Inner, inner)
    app = await started(requests)
    with pytest.raises(HandlerNotFoundError):
        await app.mediator.send(Later())


async def test_a_handler_that_asks_for_nothing_of_the_scope_opens_no_unit_of_work() -> None:
    requests = RequestMap()

    @requests.handles(Outer)
    async def outer(request: Outer, metadata: Metadata) -> str:
        return metadata.correlation_id

    app = await started(requests)
    assert await app.mediator.send(Outer())
    assert app.world.units == []


async def test_a_nested_send_joins_the_unit_of_work_of_the_outer_one() -> None:
    requests = RequestMap()
    sessions = []

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit, mediator: RequestMediator, session: Session) -> str:
        sessions.append(session)
        unit.note(request.text)
        return await mediator.send(Inner())

    @requests.handles(Inner)
    async def nested(request: Inner, unit: Unit, session: Session) -> str:
        sessions.append(session)
        unit.note(request.text)
        return request.text

    app = await started(requests)
    assert await app.mediator.send(Outer()) == "inner"
    assert app.world.committed == ["outer", "inner"]
    assert len(app.world.units) == 1
    assert sessions[0] is sessions[1]


async def test_an_error_of_a_handler_reaches_the_caller_and_rolls_back() -> None:
    requests = RequestMap()

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit) -> str:
        unit.note("lost")
        raise RefusedError("no")

    app = await started(requests)
    with pytest.raises(RefusedError):
        await app.mediator.send(Outer())
    assert app.world.endings == ["rolled back"]


async def test_an_error_of_a_nested_send_spoils_the_unit_even_if_it_is_caught() -> None:
    requests = RequestMap()

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit, mediator: RequestMediator) -> str:
        unit.note("lost")
        with pytest.raises(RefusedError):
            await mediator.send(Inner())
        return "all is well"

    @requests.handles(Inner)
    async def nested(request: Inner) -> str:
        raise RefusedError("no")

    app = await started(requests)
    with pytest.raises(RefusedError):
        await app.mediator.send(Outer())
    assert app.world.endings == ["rolled back"]


async def test_a_task_left_behind_gets_an_error_and_changes_nothing() -> None:
    requests = RequestMap()
    left: list[asyncio.Task[object]] = []
    may_go_on = asyncio.Event()

    @requests.handles(Outer)
    async def outer(request: Outer, mediator: RequestMediator, events: EventMediator) -> str:
        async def late_send() -> object:
            await may_go_on.wait()
            return await mediator.send(Inner())

        async def late_publish() -> object:
            await may_go_on.wait()
            await events.publish(Happened())
            return None

        left.extend(asyncio.get_running_loop().create_task(work()) for work in (late_send, late_publish))
        return "done"

    requests.bind(Inner, inner)
    app = await started(requests)
    assert await app.mediator.send(Outer()) == "done"
    may_go_on.set()
    for error in await asyncio.gather(*left, return_exceptions=True):
        assert isinstance(error, ScopeClosedError)
    assert app.world.committed == []


async def test_a_query_can_neither_send_a_command_nor_publish() -> None:
    class SendFrom(Query[None]):
        pass

    class PublishFrom(Query[None]):
        pass

    requests = RequestMap()

    @requests.handles(SendFrom)
    async def sends(request: SendFrom, mediator: RequestMediator) -> None:
        await mediator.send(Inner())

    @requests.handles(PublishFrom)
    async def publishes(request: PublishFrom, events: EventMediator) -> None:
        await events.publish(Happened())

    requests.bind(Inner, inner)
    app = await started(requests)
    with pytest.raises(ReadOnlyError, match="a query sent the command Inner"):
        await app.mediator.send(SendFrom())
    with pytest.raises(ReadOnlyError, match="a query published an event"):
        await app.mediator.send(PublishFrom())
    assert app.world.committed == []


async def test_a_query_may_send_a_query() -> None:
    class AskTwice(Query[int]):
        pass

    requests = RequestMap()

    @requests.handles(Ask)
    async def ask(request: Ask) -> int:
        return 21

    @requests.handles(AskTwice)
    async def twice(request: AskTwice, mediator: RequestMediator) -> int:
        return await mediator.send(Ask()) + await mediator.send(Ask())

    assert await (await started(requests)).mediator.send(AskTwice()) == 42


async def test_a_command_that_outlasts_its_timeout_is_rolled_back() -> None:
    requests = RequestMap()

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit) -> str:
        unit.note("lost")
        await asyncio.Event().wait()
        return "never"

    app = await started(requests, timeout=0.01)
    with pytest.raises(TimeoutError):
        await app.mediator.send(Outer())
    assert app.world.endings == ["rolled back"]


async def test_a_commit_that_has_begun_is_not_cut_off_by_the_timeout() -> None:
    requests = RequestMap()
    requests.bind(Inner, inner)
    app = await started(requests, timeout=0.01)

    async def slowly() -> None:
        await asyncio.sleep(0.05)

    app.world.committing = slowly
    assert await app.mediator.send(Inner()) == "inner"
    assert app.world.endings == ["committed"]


@pytest.mark.parametrize("moment", ["in the handler", "in the commit"])
async def test_a_caller_that_is_cancelled_does_not_stop_the_unit(moment: str) -> None:
    requests = RequestMap()
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        reached.set()
        await go_on.wait()

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit) -> str:
        unit.note("kept")
        if moment == "in the handler":
            await pause()
        return "done"

    app = await started(requests)
    if moment == "in the commit":
        app.world.committing = pause
    caller = asyncio.get_running_loop().create_task(app.mediator.send(Outer()))
    await reached.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert app.world.endings == ["open"]
    go_on.set()
    assert await app.kernel.drain(5) == 0
    assert app.world.committed == ["kept"]


async def test_one_unit_more_than_the_limit_is_refused_before_it_begins() -> None:
    requests = RequestMap()
    go_on = asyncio.Event()

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit) -> str:
        await go_on.wait()
        return "done"

    app = await started(requests, at_once=2)
    running = [asyncio.get_running_loop().create_task(app.mediator.send(Outer())) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="2 units of work are under way"):
        await app.mediator.send(Outer())
    go_on.set()
    assert await asyncio.gather(*running) == ["done", "done"]
    assert await app.mediator.send(Outer()) == "done"
    assert len(app.world.units) == 3


async def test_after_a_conflict_the_whole_decision_is_made_again_in_a_fresh_scope() -> None:
    requests = RequestMap()
    sessions = []

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit, session: Session) -> str:
        sessions.append(session)
        unit.note(len(sessions))
        unit.conflict = conflict() if len(sessions) < 3 else None
        return f"attempt {len(sessions)}"

    app = await started(requests)
    assert await app.mediator.send(Outer()) == "attempt 3"
    assert app.world.endings == ["rolled back", "rolled back", "committed"]
    assert app.world.committed == [3]
    assert len(set(map(id, sessions))) == 3


async def test_a_decision_that_always_loses_is_given_up_after_the_limit() -> None:
    requests = RequestMap()

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit) -> str:
        raise conflict()

    app = await started(requests, retries=3)
    with pytest.raises(ConcurrencyError):
        await app.mediator.send(Outer())
    assert app.world.endings == ["rolled back"] * 4


async def test_a_conflict_with_a_version_that_the_caller_named_is_not_tried_again() -> None:
    requests = RequestMap()

    @requests.handles(Outer)
    async def outer(request: Outer, unit: Unit) -> str:
        raise conflict(retryable=False)

    app = await started(requests)
    with pytest.raises(ConcurrencyError):
        await app.mediator.send(Outer())
    assert app.world.endings == ["rolled back"]


async def test_a_conflict_in_a_nested_send_makes_the_outer_decision_again() -> None:
    requests = RequestMap()
    attempts = []

    @requests.handles(Outer)
    async def outer(request: Outer, mediator: RequestMediator) -> str:
        return await mediator.send(Inner())

    @requests.handles(Inner)
    async def nested(request: Inner, unit: Unit) -> str:
        attempts.append(unit)
        if len(attempts) == 1:
            raise conflict()
        return "second"

    app = await started(requests)
    assert await app.mediator.send(Outer()) == "second"
    assert attempts[0] is not attempts[1]
    assert app.world.endings == ["rolled back", "committed"]
