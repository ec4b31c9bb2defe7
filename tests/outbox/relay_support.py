"""A broker that does as it is told, an application that writes to its outbox, and relays as tasks."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from sqlalchemy import func, select

from cqrs_fastapi import CQRS, Command, Event, EventStore, Settings
from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.expected_version import ANY
from cqrs_fastapi.migrations import upgrade

ACKNOWLEDGED = Outcome(Delivery.ACKNOWLEDGED)


class Happened(Event, topic="things"):
    number: int


class Append(Command[None]):
    stream: str
    numbers: tuple[int, ...]


@dataclass
class ScriptedBroker:
    """Acknowledges, holds, refuses or hangs as `decide` says; keeps what it acknowledged."""

    decide: Callable[[OutgoingMessage], Outcome] = lambda _: ACKNOWLEDGED
    sent: list[OutgoingMessage] = field(default_factory=list)
    away: bool = False
    hang: asyncio.Event | None = None
    calls: int = 0
    pause: float = 0.0
    """Seconds before a batch is acknowledged, in which others may send."""
    name: str = "scripted"
    in_process: bool = False
    max_message_bytes: int | None = None

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def ping(self) -> None: ...
    async def ensure_topics(self, topics: Sequence[str]) -> None: ...
    def declare_group(self, group: str, topics: Sequence[str]) -> None: ...
    async def subscribe(self, group: str, topics: Sequence[str]) -> object:
        raise AssertionError("no consumer in these tests")

    async def publisher(self) -> ScriptedBroker:
        return self

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        self.calls += 1
        await asyncio.sleep(self.pause)
        if self.away:
            raise UnavailableError("planned")
        outcomes, stopped = [], set()
        for message in messages:
            outcome = Outcome(Delivery.HELD, "behind") if message.key in stopped else self.decide(message)
            if outcome.delivery is Delivery.ACKNOWLEDGED:
                self.sent.append(message)
            else:
                stopped.add(message.key)
            outcomes.append(outcome)
        if self.hang is not None:
            await self.hang.wait()
        return outcomes

    def numbers(self) -> dict[str, list[int]]:
        """What was acknowledged, by key, first occurrences only."""
        found: dict[str, list[int]] = defaultdict(list)
        seen = set()
        for message in self.sent:
            if message.message_id not in seen:
                seen.add(message.message_id)
                found[str(message.key)].append(Happened.model_validate_json(message.payload).number)
        return dict(found)


def application(url: str, broker: ScriptedBroker, **settings: Any) -> CQRS:
    """One process's worth of an application; several may share a database and a broker."""
    given: dict[str, Any] = {"relay_poll": timedelta(seconds=0.1), "relay_batch": 20, **settings}
    cqrs = CQRS(settings=Settings(database_url=url, service="tests", **given), broker=broker)  # type: ignore[arg-type]  # subscriptions are not scripted
    cqrs.register(Happened)

    @cqrs.handles(Append)
    async def handle(command: Append, store: EventStore) -> None:
        await store.append(command.stream, [Happened(number=number) for number in command.numbers], ANY)

    return cqrs


async def migrated(cqrs: CQRS) -> None:
    if cqrs.database.dialect == "postgresql":
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)


async def waiting(cqrs: CQRS) -> int:
    outbox = cqrs.database.tables.outbox
    return await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(outbox)).scalar_one())


class Running:
    """A relay as a task."""

    def __init__(self, cqrs: CQRS) -> None:
        self.cqrs, self.stop = cqrs, asyncio.Event()

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.cqrs.worker("relay").run(self.stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await self.task

    async def until_waiting(self, left: int, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while await waiting(self.cqrs) != left:
                await asyncio.sleep(0.02)


async def append(cqrs: CQRS, stream: str, *numbers: int) -> None:
    await cqrs.mediator.send(Append(stream=stream, numbers=numbers))
