import pytest
from small_app import Session, Unit, started

from cqrs_fastapi.mediation.event_map import EventMap
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.handlers import EventHandler
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.requests import Command

pytestmark = pytest.mark.anyio


class Pay(Command[None]):
    pass


class Count(Command[None]):
    pass


class Paid(Event):
    amount: int = 1


class Counted(Event):
    pass


def paying() -> RequestMap:
    requests = RequestMap()

    @requests.handles(Pay)
    async def pay(request: Pay, events: EventMediator, unit: Unit, session: Session) -> None:
        unit.note(session)
        await events.publish(Paid())

    return requests


async def test_handlers_run_in_the_unit_of_the_command_in_the_order_they_were_bound() -> None:
    events = EventMap()

    class First(EventHandler[Paid]):
        def __init__(self, unit: Unit, session: Session) -> None:
            self.unit = unit
            self.session = session

        async def handle(self, event: Paid, /) -> None:
            self.unit.note(self.session)

    @events.on(Paid, when="in_transaction")
    async def zero(event: Paid, unit: Unit) -> None:
        unit.note("zero")

    events.bind(Paid, First, when="in_transaction")
    app = await started(paying(), events)
    await app.mediator.send(Pay())
    session, event, *after = app.world.committed
    assert event == Paid()
    assert after == ["zero", session]
    assert len(app.world.units) == 1


async def test_an_error_of_a_handler_reaches_the_caller_and_rolls_the_command_back() -> None:
    events = EventMap()

    @events.on(Paid, when="in_transaction")
    async def refuse(event: Paid) -> None:
        raise PermissionError("no")

    app = await started(paying(), events)
    with pytest.raises(PermissionError):
        await app.mediator.send(Pay())
    assert app.world.endings == ["rolled back"]


async def test_events_and_commands_of_a_handler_belong_to_the_same_unit() -> None:
    events, requests = EventMap(), paying()

    @requests.handles(Count)
    async def count(request: Count, publisher: EventMediator) -> None:
        await publisher.publish(Counted())

    @events.on(Paid, when="in_transaction")
    async def then_count(event: Paid, mediator: RequestMediator) -> None:
        await mediator.send(Count())

    @events.on(Counted, when="in_transaction")
    async def counted(event: Counted, unit: Unit) -> None:
        unit.note("counted")

    app = await started(requests, events)
    await app.mediator.send(Pay())
    assert app.world.committed[1:] == [Paid(), Counted(), "counted"]
    assert app.world.endings == ["committed"]


async def test_a_durable_handler_does_not_run_in_the_transaction() -> None:
    events = EventMap()

    @events.on(Paid)
    async def later(event: Paid, unit: Unit) -> None:
        unit.note("too early")

    app = await started(paying(), events)
    await app.mediator.send(Pay())
    assert "too early" not in app.world.committed


async def test_an_event_that_is_published_from_outside_has_a_unit_of_its_own() -> None:
    events = EventMap()

    @events.on(Paid, when="in_transaction")
    async def note(event: Paid, unit: Unit, metadata: Metadata) -> None:
        unit.note(metadata)

    app = await started(RequestMap(), events)
    await app.event_mediator.publish(Paid())
    event, metadata = app.world.committed
    assert event == Paid()
    assert isinstance(metadata, Metadata)
