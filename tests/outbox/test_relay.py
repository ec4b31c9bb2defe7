"""The relay against a broker that does as it is told, on both databases."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from cqrs_fastapi import CQRS, Command, Event, EventStore, Settings
from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.dead_letters.parking import newest
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.expected_version import ANY
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.outbox.relay import Relay

pytestmark = pytest.mark.anyio

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
    name: str = "scripted"
    in_process: bool = False

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def ping(self) -> None: ...
    async def ensure_topics(self, topics: Sequence[str]) -> None: ...
    def declare_group(self, group: str, topics: Sequence[str]) -> None: ...
    async def subscribe(self, group: str, topics: Sequence[str]) -> object:
        raise AssertionError("no consumer in these tests")

    async def publisher(self) -> "ScriptedBroker":
        return self

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        self.calls += 1
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


@pytest.fixture
def broker() -> ScriptedBroker:
    return ScriptedBroker()


@pytest.fixture
async def cqrs(database_url: str, broker: ScriptedBroker) -> AsyncIterator[CQRS]:
    settings = Settings(database_url=database_url, service="tests", relay_poll="PT0.1S", relay_batch=20)
    cqrs = CQRS(settings=settings, broker=broker)  # type: ignore[arg-type]  # subscriptions are not scripted
    cqrs.register(Happened)

    @cqrs.handles(Append)
    async def handle(command: Append, store: EventStore) -> None:
        await store.append(command.stream, [Happened(number=number) for number in command.numbers], ANY)

    if database_url.startswith("postgresql"):
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        yield cqrs


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


async def test_everything_is_sent_in_order_per_key_and_then_gone(cqrs: CQRS, broker: ScriptedBroker) -> None:
    for round_ in range(5):
        for key in "abc":
            await append(cqrs, f"s-{key}", *range(round_ * 4, round_ * 4 + 4))
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    assert broker.numbers() == {f"s-{key}": list(range(20)) for key in "abc"}
    assert len(broker.sent) == 60


async def test_what_is_held_is_sent_later_and_never_overtaken(cqrs: CQRS, broker: ScriptedBroker) -> None:
    refusals = {"s-a": 3}

    def decide(message: OutgoingMessage) -> Outcome:
        if refusals.get(str(message.key), 0):
            refusals[str(message.key)] -= 1
            return Outcome(Delivery.HELD, "not now")
        return ACKNOWLEDGED

    broker.decide = decide
    await append(cqrs, "s-a", 1, 2, 3)
    await append(cqrs, "s-b", 1, 2, 3)
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1, 2, 3], "s-b": [1, 2, 3]}


async def test_a_broker_that_is_away_is_waited_for_without_a_limit_of_attempts(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    broker.away = True
    await append(cqrs, "s-a", 1, 2)
    async with Running(cqrs) as relay:
        while broker.calls < 6:
            await asyncio.sleep(0.02)
        assert await waiting(cqrs) == 2
        broker.away = False
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1, 2]}


async def test_a_refused_message_is_parked_with_what_follows_it_and_other_keys_go_on(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    def decide(message: OutgoingMessage) -> Outcome:
        refused = message.key == "s-a" and message.payload == b'{"number":2}'
        return Outcome(Delivery.REFUSED, "too large") if refused else ACKNOWLEDGED

    broker.decide = decide
    await append(cqrs, "s-a", 1, 2, 3)
    await append(cqrs, "s-b", 1, 2, 3)
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)
        await append(cqrs, "s-a", 4)
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1], "s-b": [1, 2, 3]}
    letters = await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 10))
    parked = sorted((letter.payload, letter.error) for letter in letters)
    behind = "an earlier message of this key is parked"
    assert parked == [(b'{"number":2}', "too large"), (b'{"number":3}', behind), (b'{"number":4}', behind)]
    assert {(letter.consumer, letter.code, letter.topic) for letter in letters} == {("relay", "refused", "things")}


async def test_a_relay_that_dies_after_the_acknowledgement_sends_again_with_the_same_id(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    await append(cqrs, "s-a", 1, 2)
    broker.hang = asyncio.Event()
    dying = asyncio.create_task(cqrs.worker("relay").run(asyncio.Event()))
    while not broker.sent:
        await asyncio.sleep(0.01)
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying
    assert await waiting(cqrs) == 2

    broker.hang = None
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1, 2]}
    assert len(broker.sent) == 4
    assert len({message.message_id for message in broker.sent}) == 2


async def test_a_relay_that_stops_leaves_what_is_not_acknowledged(cqrs: CQRS, broker: ScriptedBroker) -> None:
    await append(cqrs, "s-a", 1)
    broker.hang = asyncio.Event()
    async with Running(cqrs):
        while not broker.sent:
            await asyncio.sleep(0.01)

    assert await waiting(cqrs) == 1


async def test_of_two_relays_one_works_and_the_other_takes_over_when_it_stops(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    async with Running(cqrs) as first:
        await append(cqrs, "s-a", 1)
        await first.until_waiting(0)
        async with Running(cqrs) as second:
            await append(cqrs, "s-a", 2)
            await second.until_waiting(0)
            first.stop.set()
            await first.task
            await append(cqrs, "s-a", 3)
            await second.until_waiting(0)

    assert [message.payload for message in broker.sent] == [b'{"number":1}', b'{"number":2}', b'{"number":3}']


async def test_a_relay_that_has_lost_its_lease_deletes_nothing(cqrs: CQRS, broker: ScriptedBroker) -> None:
    await append(cqrs, "s-a", 1)
    broker.hang = asyncio.Event()
    relay = cqrs.worker("relay")
    assert isinstance(relay, Relay)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    while not broker.sent:
        await asyncio.sleep(0.01)

    def steal(connection: object) -> None:
        tables = cqrs.database.tables
        connection.execute(tables.leases.update().values(owner=uuid4(), epoch=tables.leases.c.epoch + 1))  # type: ignore[attr-defined]  # a Connection

    await cqrs.database.write(steal)
    broker.hang.set()
    await asyncio.sleep(0.3)
    assert await waiting(cqrs) == 1
    stop.set()
    await running


async def test_headers_carry_what_a_receiver_needs(cqrs: CQRS, broker: ScriptedBroker) -> None:
    await append(cqrs, "s-a", 1)
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    [message] = broker.sent
    assert (message.headers["type"], message.headers["version"]) == ("Happened", "1")
    assert message.headers["message-id"] == str(message.message_id)
    assert message.headers["outbox-position"] == "1"
