"""What a request knows stays with it: workers begin with nothing, and each message with its own metadata alone."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import timedelta
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from runtime_support import Note, Noted, outbox_is_empty, settings_for, until

from cqrs_fastapi import CQRS, Event, MediatorDep, Metadata, Tick, UnitOfWork
from cqrs_fastapi.messages.metadata import holder

pytestmark = pytest.mark.anyio

marked: ContextVar[str] = ContextVar("marked", default="empty")


class Chained(Event):
    text: str


class Found(dict[str, list[object]]):
    def note(self, name: str, value: object) -> None:
        self.setdefault(name, []).append(value)


@pytest.fixture
def found() -> Found:
    return Found()


@pytest.fixture
def cqrs(sqlite_url: str, found: Found) -> CQRS:
    cqrs = CQRS(settings=settings_for(sqlite_url))

    @cqrs.handles(Note)
    async def note(command: Note, unit: UnitOfWork, metadata: Metadata) -> str:
        found.note("command", (marked.get(), metadata))
        marked.set(f"set by {command.text}")
        unit.publish(Noted(text=command.text))
        return command.text

    @cqrs.on(Noted, name="reader")
    async def read(event: Noted, metadata: Metadata, unit: UnitOfWork) -> None:
        found.note("durable", (marked.get(), metadata))
        marked.set(f"left by {event.text}")
        unit.publish(Chained(text=event.text))

    @cqrs.on(Chained, name="chain")
    async def chained(event: Chained, metadata: Metadata) -> None:
        found.note("chained", (marked.get(), metadata))
        marked.set(f"left by the chain of {event.text}")

    @cqrs.job(every=timedelta(seconds=1), name="ticker")
    async def tick(tick: Tick, metadata: Metadata) -> None:
        found.note("job", (marked.get(), metadata))
        marked.set("left by a tick")

    return cqrs


async def test_workers_begin_in_an_empty_context_whoever_starts_them(cqrs: CQRS, found: Found) -> None:
    token = marked.set("the starter's")
    try:
        async with cqrs.running():
            await cqrs.mediator.send(Note(text="a"))
            await cqrs.mediator.send(Note(text="b"))
            await until(lambda: outbox_is_empty(cqrs))
            await until(lambda: len(found.get("job", ())) >= 2)
        assert marked.get() == "the starter's"  # and what a handler set does not come back
    finally:
        marked.reset(token)
    assert [value[0] for value in found["command"]] == ["the starter's"] * 2  # type: ignore[index]  # pairs
    for name in ("durable", "chained", "job"):
        assert {value[0] for value in found[name]} == {"empty"}, name  # type: ignore[index]  # pairs


def test_a_request_s_correlation_reaches_its_messages_and_no_others(cqrs: CQRS, found: Found) -> None:
    app = FastAPI()
    cqrs.install(app)

    @app.post("/notes")
    async def post(command: Note, mediator: MediatorDep) -> str:
        return await mediator.send(command)

    wanted = [f"request-{uuid4()}" for _ in range(5)]
    with TestClient(app) as client:
        for name in wanted:
            client.post("/notes", json={"text": name}, headers={"X-Correlation-ID": name})
        portal = client.portal
        assert portal is not None

        async def handled() -> None:
            await until(lambda: outbox_is_empty(cqrs))
            await until(lambda: bool(found.get("job")))

        portal.call(handled)

    # Events without a stream have no key, so only that each arrives is promised, not in which order.
    for step in ("command", "durable", "chained"):
        assert sorted(value[1].correlation_id for value in found[step]) == sorted(wanted), step  # type: ignore[index]  # pairs
    assert not {value[1].correlation_id for value in found["job"]} & set(wanted)  # type: ignore[index]  # pairs
    causes = {value[1].causation_id for value in found["chained"]}  # type: ignore[index]  # pairs
    assert causes == {value[1].message_id for value in found["durable"]}  # type: ignore[index]  # pairs


async def test_outside_of_a_message_there_is_no_metadata(cqrs: CQRS) -> None:
    async with cqrs.running():
        await cqrs.mediator.send(Note(text="x"))
        assert holder() is None
        async with cqrs.scope() as scope:
            await scope.send(Note(text="y"))
            assert holder() is not None
        assert holder() is None
