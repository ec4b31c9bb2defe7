from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from small_app import Unit, started

from cqrs_fastapi.mediation.behaviors import Next
from cqrs_fastapi.mediation.event_map import EventMap
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.requests import Command, Query, StreamRequest

pytestmark = pytest.mark.anyio


class Order(Command[str]):
    pass


class Nested(Command[str]):
    pass


class Look(Query[str]):
    pass


class Watch(StreamRequest[str]):
    pass


class Ordered(Event):
    pass


@dataclass
class Layers:
    """Makes behaviors that write down when they are passed."""

    log: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> "Layer":
        return Layer(name, self.log)


@dataclass
class Layer:
    name: str
    log: list[str]

    async def __call__(self, message: object, call_next: Next, /) -> object:
        self.log.append(f"{self.name}>")
        try:
            return await call_next(message)
        finally:
            self.log.append(f"<{self.name}")


IN = ["app>", "outer>", "middle>", "inner>", "binding 1>", "binding 2>"]
OUT = ["<binding 2", "<binding 1", "<inner", "<middle", "<outer", "<app"]


def nested_requests(layer: Layers) -> tuple[RequestMap, RequestMap]:
    """The outermost and the innermost of three maps, each with a behavior."""
    outer, middle, inner = (RequestMap(behaviors=[layer(name)]) for name in ("outer", "middle", "inner"))
    outer.include(middle)
    middle.include(inner)
    return outer, inner


@pytest.mark.parametrize("scoped", [True, False])
@pytest.mark.parametrize("request_type", [Order, Look])
async def test_behaviors_of_app_maps_and_binding_are_passed_in_this_order(
    request_type: type[Order] | type[Look], *, scoped: bool
) -> None:
    layer = Layers()
    outer, inner = nested_requests(layer)

    async def in_a_scope(request: object, unit: Unit) -> str:
        layer.log.append("handler")
        return "done"

    async def without(request: object) -> str:
        layer.log.append("handler")
        return "done"

    bindings = [layer("binding 1"), layer("binding 2")]
    inner.bind(request_type, in_a_scope if scoped else without, behaviors=bindings)
    app = await started(outer, behaviors=[layer("app")])
    assert await app.mediator.send(request_type()) == "done"
    assert layer.log == [*IN, "handler", *OUT]


async def test_behaviors_surround_streams_in_the_same_order() -> None:
    layer = Layers()
    outer, inner = nested_requests(layer)

    @inner.handles(Watch, behaviors=[layer("binding 1"), layer("binding 2")])
    async def watch(request: Watch) -> AsyncIterator[str]:
        layer.log.append("handler")
        yield "item"

    app = await started(outer, behaviors=[layer("app")])
    assert [item async for item in app.mediator.stream(Watch())] == ["item"]
    assert layer.log == [*IN, "handler", *OUT]


async def test_behaviors_surround_nested_sends_in_the_same_order_inside_the_outer_unit() -> None:
    layer = Layers()
    outer, inner = nested_requests(layer)

    @inner.handles(Nested, behaviors=[layer("binding 1"), layer("binding 2")])
    async def nested(request: Nested, unit: Unit) -> str:
        layer.log.append("handler")
        return "done"

    plain = RequestMap()
    plain.include(outer)

    @plain.handles(Order)
    async def order(request: Order, mediator: RequestMediator) -> str:
        layer.log.append("order")
        return await mediator.send(Nested())

    app = await started(plain, behaviors=[layer("app")])
    await app.mediator.send(Order())
    assert layer.log == ["app>", "order", *IN, "handler", *OUT, "<app"]
    assert len(app.world.units) == 1


async def test_behaviors_surround_event_handlers_in_the_same_order() -> None:
    layer = Layers()
    outer, middle, inner = (EventMap(behaviors=[layer(name)]) for name in ("outer", "middle", "inner"))
    outer.include(middle)
    middle.include(inner)

    @inner.on(Ordered, when="in_transaction", behaviors=[layer("binding 1"), layer("binding 2")])
    async def ordered(event: Ordered) -> None:
        layer.log.append("handler")

    requests = RequestMap()

    @requests.handles(Order)
    async def order(request: Order, events: EventMediator) -> str:
        await events.publish(Ordered())
        return "done"

    app = await started(requests, outer, behaviors=[layer("app")])
    await app.mediator.send(Order())
    assert layer.log == ["app>", *IN, "handler", *OUT, "<app"]


async def test_an_included_map_may_be_filled_later() -> None:
    outer, inner = RequestMap(), RequestMap()
    outer.include(inner)

    @inner.handles(Order)
    async def order(request: Order) -> str:
        return "late"

    assert await (await started(outer)).mediator.send(Order()) == "late"


async def test_a_behavior_may_answer_by_itself_and_replace_message_and_result() -> None:
    class Say(Query[str]):
        text: str

    requests = RequestMap()

    async def shout(message: object, call_next: Next, /) -> object:
        assert isinstance(message, Say)
        if message.text == "ping":
            return "pong"
        return f"{await call_next(Say(text=message.text.upper()))}!"

    @requests.handles(Say, behaviors=[shout])
    async def say(request: Say) -> str:
        return request.text

    app = await started(requests)
    assert await app.mediator.send(Say(text="ping")) == "pong"
    assert await app.mediator.send(Say(text="hello")) == "HELLO!"


async def test_a_behavior_returns_only_after_the_commit_and_sees_its_error() -> None:
    requests = RequestMap()
    seen: list[object] = []

    async def watching(message: object, call_next: Next, /) -> object:
        try:
            return await call_next(message)
        except ConnectionError as error:
            seen.append(error)
            raise

    @requests.handles(Order, behaviors=[watching])
    async def order(request: Order, unit: Unit) -> str:
        return "done"

    app = await started(requests)

    async def lose() -> None:
        raise ConnectionError("gone")

    app.world.committing = lose
    with pytest.raises(ConnectionError):
        await app.mediator.send(Order())
    assert len(seen) == 1
