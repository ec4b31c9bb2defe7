"""What a container's providers give to handlers, and how long each of them lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dependency_injector import providers
from runtime_support import Leftovers, Note, Noted, outbox_is_empty, prepare, settings_for, until
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, CqrsContainer, Event, Provides, Settings, UnitOfWork
from cqrs_fastapi.brokers.memory.broker import MemoryBroker
from cqrs_fastapi.errors import RegistrationError

pytestmark = pytest.mark.anyio


class Diary:
    """What happened, in order. It is a singleton of the test's own."""

    def __init__(self) -> None:
        self.lines: list[str] = []


class Gateway:
    made = 0

    def __init__(self, diary: Diary) -> None:
        type(self).made += 1
        self.diary = diary


@dataclass
class Clerk:
    gateway: Gateway
    number: int = field(default_factory=iter(range(1000)).__next__)


class Captive:
    def __init__(self, one: Ticket) -> None: ...


class Pool: ...


class Ticket: ...


class Stamp: ...


async def open_pool(diary: Diary) -> AsyncIterator[Pool]:
    diary.lines.append("pool opened")
    yield Pool()
    diary.lines.append("pool closed")


def ticket(diary: Diary) -> Iterator[Ticket]:
    diary.lines.append("ticket taken")
    try:
        yield Ticket()
    except Exception as error:
        diary.lines.append(f"ticket sees {type(error).__name__}")
        raise
    finally:
        diary.lines.append("ticket returned")


async def stamp(diary: Diary, session: AsyncSession) -> AsyncIterator[Stamp]:
    assert isinstance(session, AsyncSession)
    diary.lines.append("stamp taken")
    yield Stamp()
    diary.lines.append("stamp returned")


class Container(CqrsContainer):
    diary: Provides[Diary] = providers.Singleton(Diary)
    gateway: Provides[Gateway] = providers.Singleton(Gateway, diary)
    clerk: Provides[Clerk] = providers.Factory(Clerk)
    pool: Provides[Pool] = providers.Resource(open_pool, diary)
    ticket: Provides[Ticket] = providers.Factory(ticket, diary)  # type: ignore[arg-type]  # its stubs know no generators
    stamp: Provides[Stamp] = providers.Callable(stamp, diary)  # type: ignore[arg-type]  # its stubs know no generators


def made_of(container: CqrsContainer, url: str) -> CQRS:
    return CQRS(container=container, settings=settings_for(url))


def diary_of(cqrs: CQRS) -> list[str]:
    lines: list[str] = cqrs.container.diary().lines
    return lines


async def test_a_factory_makes_one_for_each_message_and_a_singleton_one_for_all(sqlite_url: str) -> None:
    cqrs = made_of(Container(), sqlite_url)
    seen: list[Clerk] = []

    @cqrs.handles(Note)
    async def note(command: Note, clerk: Clerk, gateway: Gateway) -> str:
        assert clerk.gateway is gateway
        seen.append(clerk)
        return command.text

    Gateway.made = 0
    async with cqrs.running():
        assert Gateway.made == 1  # it is started with the application, not by the first message
        await cqrs.mediator.send(Note(text="a"))
        await cqrs.mediator.send(Note(text="b"))

    assert len({clerk.number for clerk in seen}) == 2
    assert len({id(clerk.gateway) for clerk in seen}) == 1
    assert Gateway.made == 1


async def test_a_resource_is_started_before_the_first_message_and_closed_after_the_drain(sqlite_url: str) -> None:
    cqrs = made_of(Container(), sqlite_url)
    pools: list[Pool] = []
    release = asyncio.Event()

    @cqrs.handles(Note)
    async def note(command: Note, pool: Pool, diary: Diary, unit: UnitOfWork) -> str:
        pools.append(pool)
        await release.wait()
        diary.lines.append(f"handled {command.text}")
        return command.text

    async with cqrs.running():
        assert diary_of(cqrs) == ["pool opened"]
        late = asyncio.create_task(cqrs.mediator.send(Note(text="late")))
        await until(lambda: bool(pools))
        asyncio.get_running_loop().call_later(0.1, release.set)
    assert await late == "late"

    assert diary_of(cqrs) == ["pool opened", "handled late", "pool closed"]
    assert isinstance(pools[0], Pool)


async def test_generator_providers_live_as_long_as_the_message_and_see_its_error(sqlite_url: str) -> None:
    cqrs = made_of(Container(), sqlite_url)

    @cqrs.handles(Note)
    async def note(command: Note, one: Ticket, other: Stamp, diary: Diary) -> str:
        assert isinstance(one, Ticket)
        assert isinstance(other, Stamp)
        diary.lines.append(f"handles {command.text}")
        if command.text == "bad":
            raise LookupError("planned")
        return command.text

    async with cqrs.running():
        diary_of(cqrs).clear()
        await cqrs.mediator.send(Note(text="good"))
        good, diary_of(cqrs)[:] = list(diary_of(cqrs)), []
        with pytest.raises(LookupError):
            await cqrs.mediator.send(Note(text="bad"))
        bad = [line for line in diary_of(cqrs) if line != "pool closed"]

    assert good == ["ticket taken", "stamp taken", "handles good", "stamp returned", "ticket returned"]
    assert bad[:3] == ["ticket taken", "stamp taken", "handles bad"]
    assert bad[-2:] == ["ticket sees LookupError", "ticket returned"]


async def test_durable_handlers_get_the_same_providers(sqlite_url: str) -> None:
    cqrs = made_of(Container(), sqlite_url)

    @cqrs.handles(Note)
    async def note(command: Note, unit: UnitOfWork) -> str:
        unit.publish(Noted(text=command.text))
        return command.text

    @cqrs.on(Noted, name="reader")
    async def read(event: Noted, pool: Pool, one: Ticket, clerk: Clerk) -> None:
        clerk.gateway.diary.lines.append(f"read {event.text} {type(pool).__name__} {type(one).__name__}")

    async with cqrs.running():
        await cqrs.mediator.send(Note(text="x"))
        await until(lambda: outbox_is_empty(cqrs))
    assert "read x Pool Ticket" in diary_of(cqrs)
    assert diary_of(cqrs)[-1] == "pool closed"


async def failing() -> AsyncIterator[Stamp]:
    raise ConnectionError("the stamp's server is away")
    yield Stamp()


class Failing(CqrsContainer):
    diary: Provides[Diary] = providers.Singleton(Diary)
    pool: Provides[Pool] = providers.Resource(open_pool, diary)
    stamp: Provides[Stamp] = providers.Resource(failing)


async def test_a_resource_that_cannot_start_is_the_error_and_what_was_opened_is_closed(sqlite_url: str) -> None:
    before = Leftovers()
    cqrs = made_of(Failing(), sqlite_url)

    with pytest.raises(ConnectionError, match="the stamp's server is away"):
        await cqrs.open()

    assert diary_of(cqrs) == ["pool opened", "pool closed"]
    assert not cqrs.is_open
    assert before.tasks() == set()
    assert before.threads() == set()


async def test_after_a_failed_start_the_application_can_be_opened_again(sqlite_url: str) -> None:
    tries = iter((ConnectionError("not yet"), None))

    async def sometimes() -> AsyncIterator[Stamp]:
        error = next(tries)
        if error is not None:
            raise error
        yield Stamp()

    class Sometimes(CqrsContainer):
        diary: Provides[Diary] = providers.Singleton(Diary)
        pool: Provides[Pool] = providers.Resource(open_pool, diary)
        stamp: Provides[Stamp] = providers.Resource(sometimes)

    cqrs = made_of(Sometimes(), sqlite_url)

    @cqrs.handles(Note)
    async def note(command: Note, pool: Pool, stamp: Stamp) -> str:
        return f"{type(pool).__name__} {type(stamp).__name__}"

    with pytest.raises(ConnectionError, match="not yet"):
        await cqrs.open()
    async with cqrs.running():
        assert await cqrs.mediator.send(Note(text="x")) == "Pool Stamp"
    assert diary_of(cqrs) == ["pool opened", "pool closed"] * 2


async def slow(diary: Diary) -> AsyncIterator[Ticket]:
    await asyncio.sleep(0.2)
    diary.lines.append("slow opened")
    yield Ticket()
    diary.lines.append("slow closed")


async def test_a_resource_that_is_still_starting_when_another_fails_is_closed_too(sqlite_url: str) -> None:
    class Slow(CqrsContainer):
        diary: Provides[Diary] = providers.Singleton(Diary)
        slow: Provides[Ticket] = providers.Resource(slow, diary)
        stamp: Provides[Stamp] = providers.Resource(failing)

    before = Leftovers()
    cqrs = made_of(Slow(), sqlite_url)
    with pytest.raises(ConnectionError, match="away"):
        await cqrs.open()
    assert before.tasks() == set()
    assert diary_of(cqrs) in ([], ["slow opened", "slow closed"])


async def test_an_application_may_be_opened_closed_and_opened_again(database_url: str) -> None:
    cqrs = made_of(Container(), database_url)
    pools: list[Pool] = []

    @cqrs.handles(Note)
    async def note(command: Note, unit: UnitOfWork, pool: Pool) -> str:
        pools.append(pool)
        unit.publish(Noted(text=command.text))
        return command.text

    cqrs.register(Noted)
    await prepare(cqrs)
    for round_ in range(3):
        async with cqrs.running():
            assert await cqrs.mediator.send(Note(text=str(round_))) == str(round_)
            await until(lambda: outbox_is_empty(cqrs))
    assert len({id(pool) for pool in pools}) == 3
    assert diary_of(cqrs) == ["pool opened", "pool closed"] * 3


class Sent(Event, topic="between"):
    text: str


async def test_two_applications_share_a_memory_broker(tmp_path: Path) -> None:
    broker = MemoryBroker()
    sender = CQRS(settings=settings_for(f"sqlite+aiosqlite:///{tmp_path}/a.db", service="sender"), broker=broker)
    receiver = CQRS(settings=settings_for(f"sqlite+aiosqlite:///{tmp_path}/b.db", service="receiver"), broker=broker)
    received: list[str] = []

    @sender.handles(Note)
    async def note(command: Note, unit: UnitOfWork) -> str:
        unit.publish(Sent(text=command.text))
        return command.text

    sender.register(Sent)

    @receiver.on(Sent, name="reader")
    async def read(event: Sent) -> None:
        received.append(event.text)

    async with receiver.running(), sender.running():
        await sender.mediator.send(Note(text="hello"))
        await until(lambda: outbox_is_empty(sender))
    assert received == ["hello"]


async def test_one_that_cannot_start_leaves_the_broker_it_shares_to_the_other(tmp_path: Path) -> None:
    broker = MemoryBroker()
    well = CQRS(settings=settings_for(f"sqlite+aiosqlite:///{tmp_path}/a.db", service="well"), broker=broker)
    container = Failing()
    ill = CQRS(
        settings=settings_for(f"sqlite+aiosqlite:///{tmp_path}/b.db", service="ill"), broker=broker, container=container
    )
    async with well.running():
        with pytest.raises(ConnectionError):
            await ill.open()
        assert (await well.readiness()).ready
        await broker.ping()


async def test_two_applications_with_containers_of_one_class_have_each_their_own(tmp_path: Path) -> None:
    first = made_of(Container(), f"sqlite+aiosqlite:///{tmp_path}/a.db")
    second = made_of(Container(), f"sqlite+aiosqlite:///{tmp_path}/b.db")
    for cqrs in (first, second):

        @cqrs.handles(Note)
        async def note(command: Note, gateway: Gateway) -> str:
            gateway.diary.lines.append(command.text)
            return command.text

    async with first.running(), second.running():
        await first.mediator.send(Note(text="a"))
        await second.mediator.send(Note(text="b"))
    assert diary_of(first) == ["pool opened", "a", "pool closed"]
    assert diary_of(second) == ["pool opened", "b", "pool closed"]


async def test_a_singleton_that_needs_something_of_the_scope_is_refused_at_the_start(sqlite_url: str) -> None:
    class Wrong(CqrsContainer):
        diary: Provides[Diary] = providers.Singleton(Diary)
        ticket: Provides[Ticket] = providers.Factory(ticket, diary)  # type: ignore[arg-type]  # its stubs know no generators
        captive: Provides[Captive] = providers.Singleton(Captive, ticket)

    cqrs = made_of(Wrong(), sqlite_url)

    @cqrs.handles(Note)
    async def note(command: Note, captive: Captive) -> str:
        return command.text

    with pytest.raises(RegistrationError, match="lives as long as the application but needs"):
        await cqrs.open()


def test_making_an_application_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CQRS_SERVICE", "first")
    cqrs = CQRS()
    monkeypatch.setenv("CQRS_SERVICE", "second")
    assert cqrs.settings == Settings(service="second")


async def test_settings_that_a_subclass_replaces_reach_database_and_broker(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'own.db'}"

    class Container(CqrsContainer):
        settings = providers.Singleton(Settings, database_url=url, service="own")

    cqrs = CQRS(container=Container())

    assert str(cqrs.database.engine.url) == url
    assert cqrs.settings.service == "own"
