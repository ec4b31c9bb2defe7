import asyncio

import pytest
from small_app import Unit, started

from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.metadata import Metadata, Origin, enter, leave
from cqrs_fastapi.messages.requests import Command

pytestmark = pytest.mark.anyio


class Outer(Command[list[Metadata]]):
    pass


class Bare(Command[Metadata]):
    pass


class Inner(Command[Metadata]):
    pass


def bound() -> RequestMap:
    requests = RequestMap()

    @requests.handles(Outer)
    async def outer(request: Outer, mediator: RequestMediator) -> list[Metadata]:
        async def child() -> Metadata:
            await asyncio.sleep(0)
            return Metadata.current()

        own = Metadata.current()
        children = [
            await asyncio.create_task(child()),
            *await asyncio.gather(child(), child()),
            await asyncio.to_thread(Metadata.current),
        ]
        assert children == [own] * 4
        nested = [await mediator.send(Inner()), *await asyncio.gather(mediator.send(Inner()), mediator.send(Inner()))]
        assert Metadata.current() is own
        return [own, *nested]

    @requests.handles(Inner)
    async def inner(request: Inner, unit: Unit, metadata: Metadata) -> Metadata:
        await asyncio.sleep(0)
        assert Metadata.current() is metadata
        return metadata

    @requests.handles(Bare)
    async def bare(request: Bare) -> Metadata:
        return await asyncio.create_task(current())

    return requests


async def current() -> Metadata:
    return Metadata.current()


async def test_nested_messages_child_tasks_and_gathers_know_their_own_message() -> None:
    app = await started(bound())
    own, *nested = await app.mediator.send(Outer())
    assert len({one.message_id for one in (own, *nested)}) == 4
    assert {one.causation_id for one in nested} == {own.message_id}
    assert {one.correlation_id for one in nested} == {str(own.message_id)}
    assert own.causation_id is None


async def test_after_a_send_nothing_is_current_any_more() -> None:
    app = await started(bound())
    for request in (Bare(), Inner()):
        await app.mediator.send(request)
        with pytest.raises(LookupError):
            Metadata.current()


async def test_a_handler_without_a_scope_has_metadata_too() -> None:
    app = await started(bound())
    one, other = await asyncio.gather(app.mediator.send(Bare()), app.mediator.send(Bare()))
    assert one.message_id != other.message_id
    assert one.correlation_id == str(one.message_id)


async def test_a_conversation_that_began_outside_goes_on() -> None:
    app = await started(bound())
    known = await app.mediator.send(Bare())
    token = enter(Origin(known))
    own = await app.mediator.send(Inner())
    leave(token)
    assert (own.correlation_id, own.causation_id) == (known.correlation_id, None)
    assert own.message_id != known.message_id
