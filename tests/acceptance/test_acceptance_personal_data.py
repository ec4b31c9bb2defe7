"""1,000 values of people are recorded, sent, projected, parked, kept in snapshots and root states, and forgotten: then
no byte of them is left.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    DomainError,
    Event,
    EventStore,
    Personal,
    PersonalData,
    Projection,
    Query,
    Repository,
    RootEntity,
    RootRepository,
    Settings,
    Tracked,
    applies,
    every,
    is_forgotten,
    matching,
    on,
    tracked,
)
from cqrs_fastapi.errors import MessageError
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

PEOPLE = 250
"""Each with four values of its own."""
AT_ONCE = 50
CITY = uuid4().hex
"""Of a root state, and not personal."""
INVITED_EVERY = 10

contacts = Table(
    "contacts",
    MetaData(),
    Column("n", Integer, primary_key=True),
    Column("person", String),
    Column("email", String),
)


class Joined(Event, topic="people", subject="person"):
    person: UUID
    email: Personal[str]
    name: Personal[str]


class Invited(Event, subject="person"):
    """Its handler fails for everybody."""

    person: UUID
    email: Personal[str]
    name: Personal[str]


class Control(Event, topic="people"):
    """Nothing of it is personal: a search that does not find it could not find anything."""

    text: str


class Member(Aggregate, snapshots=every(1)):
    email: str = ""
    joined: bool = False
    said: str = ""

    @applies
    def on_joined(self, event: Joined) -> None:
        self.email, self.joined = event.email, True

    @applies
    def on_invited(self, event: Invited) -> None: ...

    @applies
    def on_control(self, event: Control) -> None:
        self.said = event.text


class Guest(RootEntity, topic="guests"):
    city: Tracked[str]
    phone: Tracked[Personal[str]]
    letters: Tracked[Annotated[list[str], PersonalData(forgotten=[])]] = tracked(default_factory=list)


class Join(Command[None]):
    person: UUID
    email: str
    name: str
    phone: str
    letter: str
    invited: bool = False


class Say(Command[None]):
    id: UUID
    text: str


class PhoneOf(Query[str]):
    person: UUID


class FirstOf(Query[str]):
    """What the first event says, whatever a snapshot does."""

    person: UUID


class EmailOf(Query[str]):
    person: UUID


class Contacts(Projection, version=1):
    @on(Joined)
    async def joined(self, event: Joined, session: AsyncSession) -> None:
        await session.execute(insert(contacts).values(person=str(event.person), email=event.email))


class Person:
    """What is planted is found nowhere else in the world."""

    def __init__(self) -> None:
        self.id, self.email, self.name = uuid4(), f"{uuid4().hex}@planted.example", f"Planted {uuid4().hex}"
        self.phone, self.letter = uuid4().hex, uuid4().hex

    @property
    def in_clear(self) -> bytes:
        """What the read model holds."""
        return self.email.partition("@")[0].encode()

    @property
    def encrypted(self) -> tuple[bytes, ...]:
        return self.name.removeprefix("Planted ").encode(), self.phone.encode(), self.letter.encode()

    @property
    def values(self) -> tuple[bytes, ...]:
        return self.in_clear, *self.encrypted


class Group:
    """The application, its people, and everything it keeps."""

    def __init__(self, cqrs: CQRS, url: str) -> None:
        self.cqrs, self.url = cqrs, url
        self.people = [Person() for _ in range(PEOPLE)]
        self.control, self.control_id = uuid4().hex, uuid4()
        self.invited = {one.id for one in self.people[::INVITED_EVERY]}
        self.on_topic: list[bytes] = []

    async def plant(self) -> None:
        await self.each(self.join)
        await self.cqrs.mediator.send(Say(id=self.control_id, text=self.control))

    async def join(self, one: Person) -> None:
        invited = one.id in self.invited
        await self.cqrs.mediator.send(
            Join(person=one.id, email=one.email, name=one.name, phone=one.phone, letter=one.letter, invited=invited)
        )

    async def each(self, work: Callable[[Person], Awaitable[object]]) -> None:
        for start in range(0, PEOPLE, AT_ONCE):
            await asyncio.gather(*(work(one) for one in self.people[start : start + AT_ONCE]))

    async def snapshots_of_all(self) -> None:
        """Of what is about nobody too. One is left out while others are being written."""
        snapshots = self.cqrs.database.tables.snapshots
        while await self.count(snapshots) < PEOPLE + 1:
            for one in (self.control_id, *(one.id for one in self.people)):
                await self.cqrs.mediator.send(Say(id=one, text=self.control))

    async def settled(self) -> None:
        """All is projected, parked and sent."""
        tables = self.cqrs.database.tables
        while True:
            counted = [await self.count(one) for one in (contacts, tables.dead_letters, tables.outbox)]
            if counted == [PEOPLE, len(self.invited), 0]:
                return
            await asyncio.sleep(0.05)

    async def require_controls(self) -> None:
        """What is not personal is in clear in the very tables that are searched."""
        tables = self.cqrs.database.tables
        states = [bytes(row.state) for row in await self.rows(tables.snapshots)]
        assert [self.control in state.decode() for state in states if b"cqrs:sealed:" not in state] == [True]
        assert [row.state["city"] for row in await self.rows(tables.root_states)] == [CITY] * PEOPLE

    async def rows(self, table: Table) -> Sequence[Any]:
        return await self.cqrs.database.read(lambda connection: list(connection.execute(select(table))))

    async def count(self, table: Table) -> int:
        query = select(func.count()).select_from(table)
        return await self.cqrs.database.read(lambda connection: connection.execute(query).scalar_one())

    async def spy(self, stop: asyncio.Event) -> None:
        """Keeps the raw payloads of the topic, as another service would get them."""
        subscription = await self.cqrs.broker.subscribe("spy", ["people", "guests"])
        while not stop.is_set():
            messages = await subscription.receive()
            self.on_topic += [message.payload + repr(message.headers).encode() for message in messages]
            await subscription.settle(messages)

    async def kept(self) -> bytes:
        """Every byte that the database and the topic keep, after a vacuum and a checkpoint."""
        found = await (files_of_sqlite if self.url.startswith("sqlite") else files_of_postgres)(self.url)
        return b"\n".join([*found, *self.on_topic])


NEXT, OLDEST = (f"SELECT pg_snapshot_{end}(pg_current_snapshot())::text::bigint" for end in ("xmax", "xmin"))


async def files_of_sqlite(url: str) -> Sequence[bytes]:
    file = Path(url.partition("///")[2])
    with sqlite3.connect(file, isolation_level=None) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return [one.read_bytes() for one in file.parent.iterdir() if one.name.startswith(file.name)]


async def files_of_postgres(url: str) -> Sequence[bytes]:
    """Tables, indexes and what is stored beside them, as the server's files have them. The server reads them."""
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        # A vacuum leaves what a transaction may still see that is open anywhere on the server.
        until = (await connection.execute(text(NEXT))).scalar_one()
        while (await connection.execute(text(OLDEST))).scalar_one() < until:
            await asyncio.sleep(0.05)
        for statement in ("VACUUM FULL ANALYZE", "CHECKPOINT"):
            await connection.execute(text(statement))
        paths = "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relkind IN ('r', 'i', 't', 'S')"
        files = [path for (path,) in await connection.execute(text(paths)) if path is not None]
        read = text("SELECT pg_read_binary_file(:path)")
        found = [(await connection.execute(read, {"path": path})).scalar_one() for path in files]
        rows = [await rows_as_text(connection, table) for table in await tables_of(connection)]
    await engine.dispose()
    return [*found, *rows]


async def tables_of(connection: AsyncConnection) -> Iterable[str]:
    query = "SELECT quote_ident(table_name) FROM information_schema.tables WHERE table_schema = 'public'"
    return [name for (name,) in await connection.execute(text(query))]


async def rows_as_text(connection: AsyncConnection, table: str) -> bytes:
    """The rows by SQL, too: a long value may be compressed in the file."""
    rows = await connection.execute(text(f"SELECT * FROM {table}"))  # noqa: S608  # names of the catalogue
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)


def build(url: str) -> CQRS:
    settings = Settings(
        database_url=url,
        service="people",
        handler_attempts=1,
        personal_data_keys=f"main:{base64.b64encode(os.urandom(32)).decode()}",
    )
    cqrs = CQRS(settings=settings)
    cqrs.projections.include(Contacts)
    cqrs.personal_data.purge(contacts, subject=contacts.c.person)

    @cqrs.handles(Join)
    async def join(command: Join, members: Repository[Member], guests: RootRepository[Guest]) -> None:
        member = await members.get_or_new(command.person)
        member.record(Joined(person=command.person, email=command.email, name=command.name))
        guests.create(id=command.person, city=CITY, phone=command.phone, letters=[command.letter])
        if command.invited:
            member.record(Invited(person=command.person, email=command.email, name=command.name))

    @cqrs.handles(Say)
    async def say(command: Say, members: Repository[Member]) -> None:
        member = await members.get_or_new(command.id)
        member.record(Control(text=command.text))

    @cqrs.handles(EmailOf)
    async def email_of(query: EmailOf, members: Repository[Member]) -> str:
        member = await members.get(query.person)
        assert member.joined
        return member.email

    @cqrs.handles(FirstOf)
    async def first_of(query: FirstOf, store: EventStore) -> str:
        first, *_ = [one.event async for one in store.read(f"Member-{query.person}")]
        return first.email

    @cqrs.handles(PhoneOf)
    async def phone_of(query: PhoneOf, guests: RootRepository[Guest]) -> str:
        (guest,) = await guests.find((Guest.city == CITY) & (Guest.id == query.person))
        return guest.phone

    @cqrs.on(Invited, name="invites")
    async def invite(event: Invited, session: AsyncSession) -> None:
        raise ValueError(f"no letter can be sent to {event.name}, {event.email}")

    return cqrs


@pytest.fixture
async def group(database_url: str) -> Group:
    cqrs = build(database_url)
    async with cqrs.database.engine.begin() as connection:
        if database_url.startswith("postgresql"):
            await connection.run_sync(upgrade)
        await connection.run_sync(contacts.create)
        if database_url.startswith("postgresql"):
            # ANALYZE, which runs by itself, would copy values into the catalogue, where nobody deletes them.
            await connection.execute(text("ALTER TABLE contacts ALTER COLUMN email SET STATISTICS 0"))
    return Group(cqrs, database_url)


@asynccontextmanager
async def at_work(group: Group) -> AsyncIterator[CQRS]:
    """With its workers, and with somebody who listens to the topic."""
    cqrs, stop = group.cqrs, asyncio.Event()
    async with cqrs.running(workers=("relay", "consumer")):
        spying = asyncio.ensure_future(group.spy(stop))
        yield cqrs
        stop.set()
        spying.cancel()
        await asyncio.wait({spying})


@pytest.mark.timeout(600)  # thousands of transactions, each of which waits for the disk
async def test_1000_personal_values_are_nowhere_once_the_people_are_forgotten(group: Group) -> None:
    async with group.cqrs.running(workers=()):
        await group.plant()
        await group.snapshots_of_all()
        # The rows of the outbox are still there, and nothing that is personal is in clear in them or anywhere.
        assert await group.count(group.cqrs.database.tables.outbox) > PEOPLE
    kept = await group.kept()
    assert group.control.encode() in kept
    assert not [value for one in group.people for value in one.values if value in kept]

    async with at_work(group) as cqrs:
        await group.settled()
        while len(group.on_topic) < await group.count(cqrs.database.tables.events) - len(group.invited):
            await asyncio.sleep(0.05)
        wrapped = await wrapped_keys(group)
        await group.require_controls()
    kept = await group.kept()
    # The search finds what is stored in clear: what is not personal, and the read model.
    assert group.control.encode() in kept
    assert CITY.encode() in kept
    assert all(one.in_clear in kept for one in group.people)
    # What is encrypted was never there in clear: not in the store, on topics, nor in dead letters and their reasons.
    assert not [value for one in group.people for value in one.encrypted if value in kept]
    assert kept.count(b"cqrs:personal:") > 4 * PEOPLE
    assert kept.count(b"cqrs:sealed:") >= PEOPLE
    assert len(wrapped) == PEOPLE
    assert all(key in kept for key in wrapped)

    async with at_work(group) as cqrs:
        recorded = await group.count(cqrs.database.tables.events)
        reports = [await cqrs.personal_data.forget(one.id) for one in group.people]
        assert sum(report.snapshots for report in reports) == PEOPLE
        assert await group.count(cqrs.database.tables.events) == recorded
        assert await group.count(cqrs.database.tables.dead_letters) == len(group.invited)
        assert await group.count(contacts) == 0
        assert await cqrs.mediator.send(EmailOf(person=group.people[0].id)) == "(forgotten)"
        assert await cqrs.mediator.send(PhoneOf(person=group.people[0].id)) == "(forgotten)"

    kept = await group.kept()
    assert group.control.encode() in kept
    assert CITY.encode() in kept
    assert not [value for one in group.people for value in one.values if value in kept]
    assert not [key for key in wrapped if key in kept]


async def wrapped_keys(group: Group) -> list[bytes]:
    keys = group.cqrs.database.tables.subject_keys
    return await group.cqrs.database.read(
        lambda connection: list(connection.execute(select(keys.c.wrapped_key)).scalars())
    )


async def test_personal_data_that_is_forgotten_reads_as_a_placeholder_and_folds_go_on(group: Group) -> None:
    ada, byron = group.people[1:3]
    async with at_work(group) as cqrs:
        for one in (ada, byron):
            await group.join(one)
        report = await cqrs.personal_data.forget(ada.id)
        assert report.subject == str(ada.id)
        assert report.elsewhere_until > report.forgotten_at
        assert await cqrs.mediator.send(EmailOf(person=ada.id)) == "(forgotten)"
        assert await cqrs.mediator.send(EmailOf(person=byron.id)) == byron.email
        assert is_forgotten(Joined(person=ada.id, email="(forgotten)", name=ada.name), "email")
        with pytest.raises(DomainError, match="was forgotten") as refused:
            await group.join(ada)
        assert refused.value.code == "subject_forgotten"


def test_personal_data_in_a_condition_is_an_error_at_the_start() -> None:
    with pytest.raises(TypeError, match="email is personal and a tag"):

        class Wrong(Event, subject="person", tags=("person", "email")):
            person: str
            email: Personal[str]

    with pytest.raises(TypeError, match="carries no tag"):
        matching(Joined, email="ada@example.org")


async def test_personal_data_moved_to_another_place_cannot_be_read(group: Group) -> None:
    ada, byron = group.people[1:3]
    events = group.cqrs.database.tables.events
    data = {one.id: select(events.c.data).where(events.c.stream == f"Member-{one.id}") for one in (ada, byron)}
    async with at_work(group) as cqrs:
        for one in (ada, byron):
            await group.join(one)
        async with cqrs.database.session() as session:
            mine, other = [json.loads((await session.execute(data[one.id])).scalar_one()) for one in (ada, byron)]
            swapped = json.dumps({**other, "email": mine["email"]})
            await session.execute(update(events).where(events.c.stream == f"Member-{byron.id}").values(data=swapped))
            await session.commit()
        with pytest.raises(MessageError, match="holds an encrypted value of another place"):
            await cqrs.mediator.send(FirstOf(person=byron.id))
