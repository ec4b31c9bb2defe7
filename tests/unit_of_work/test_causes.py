"""Each event is caused by the message whose handler recorded it, in one unit of work as in several."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    Event,
    Metadata,
    Repository,
    RequestMediator,
    Settings,
    UnitOfWork,
    applies,
)
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio


class Noted(Event):
    what: str


class Echoed(Event):
    what: str


class Log(Aggregate):
    @applies
    def on_noted(self, event: Noted) -> None: ...

    @applies
    def on_echoed(self, event: Echoed) -> None: ...


class Outer(Command[None]):
    log: UUID


class Inner(Command[None]):
    log: UUID


messages: dict[str, UUID] = {}


@pytest.fixture
async def cqrs(database_url: str) -> AsyncIterator[CQRS]:
    cqrs = CQRS(settings=Settings(database_url=database_url))
    messages.clear()

    @cqrs.handles(Outer)
    async def outer(
        command: Outer, logs: Repository[Log], mediator: RequestMediator, unit: UnitOfWork, metadata: Metadata
    ) -> None:
        messages["outer"] = metadata.message_id
        log = await logs.get_or_new(command.log)
        log.record(Noted(what="before"))
        await mediator.send(Inner(log=command.log))
        log.record(Noted(what="after"))
        unit.publish(Noted(what="published"))

    @cqrs.handles(Inner)
    async def inner(command: Inner, logs: Repository[Log], metadata: Metadata) -> None:
        messages["inner"] = metadata.message_id
        assert metadata.causation_id == messages["outer"]
        (await logs.get_or_new(command.log)).record(Noted(what="nested"))

    @cqrs.on(Noted, when="in_transaction")
    async def echo(event: Noted, unit: UnitOfWork, metadata: Metadata) -> None:
        messages[event.what] = metadata.message_id
        if event.what == "after":
            unit.publish(Echoed(what="echo"))

    engine = cqrs.container.database().engine
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        yield cqrs


async def test_the_cause_of_an_event_is_the_message_whose_handler_recorded_it(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Outer(log=uuid4()))
    events = cqrs.container.database().tables.events
    rows = await cqrs.container.database().read(
        lambda connection: connection.execute(
            select(events.c.data, events.c.meta, events.c.message_id).order_by(events.c.position)
        ).all()
    )
    causes = {json.loads(row[0])["what"]: UUID(json.loads(row[1])["causation-id"]) for row in rows}
    assert causes == {
        "before": messages["outer"],
        "nested": messages["inner"],
        "after": messages["outer"],
        "published": messages["outer"],
        "echo": messages["after"],
    }
    assert messages["nested"] in {row.message_id for row in rows}


async def test_the_events_of_a_stream_stay_in_the_order_in_which_they_were_recorded(cqrs: CQRS) -> None:
    log = uuid4()
    await cqrs.mediator.send(Outer(log=log))
    events = cqrs.container.database().tables.events
    data = await cqrs.container.database().read(
        lambda connection: (
            connection.execute(select(events.c.data).where(events.c.stream == f"Log-{log}").order_by(events.c.version))
            .scalars()
            .all()
        )
    )
    assert [json.loads(one)["what"] for one in data] == ["before", "nested", "after"]
