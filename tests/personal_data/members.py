"""An application whose aggregates have snapshots, and whose root entities have personal fields."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from customers import MASTER, rows_of

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Changed,
    Command,
    Created,
    Event,
    EventStore,
    Personal,
    PersonalData,
    Query,
    Repository,
    RootEntity,
    RootRepository,
    Settings,
    Tracked,
    ValueObject,
    applies,
    every,
    state,
    tracked,
)
from cqrs_fastapi.migrations import upgrade


class Wrote(Event, subject="member"):
    member: UUID
    words: Personal[str]


class Counted(Event):
    number: int


class Club(Aggregate, snapshots=every(2)):
    """What several people wrote."""

    total: int = 0
    words: list[str] = state(list)

    @applies
    def on_wrote(self, event: Wrote) -> None:
        self.words.append(event.words)

    @applies
    def on_counted(self, event: Counted) -> None:
        self.total += event.number


class Home(ValueObject):
    street: str
    rooms: int = 1


class Guest(RootEntity):
    city: Tracked[str]
    email: Tracked[Personal[str]]
    home: Tracked[Personal[Home | None]] = tracked(default=None)
    height: Tracked[Annotated[int, PersonalData(forgotten=-1)]] = tracked(default=0)


class Write(Command[None]):
    club: UUID
    member: UUID
    words: str


class Count(Command[None]):
    club: UUID
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """Happens between loading and committing."""


class Read(Query[tuple[list[str], int]]):
    club: UUID


class Invite(Command[UUID]):
    city: str
    email: str
    street: str | None = None


class Move(Command[None]):
    id: UUID
    city: str
    meanwhile: Callable[[], Awaitable[None]] | None = None


class WriteTo(Command[None]):
    """A new address of a guest."""

    id: UUID
    email: str


class Expel(Command[None]):
    id: UUID


class Find(Query[list[str]]):
    """The e-mail addresses of a city, in every way that there is to come to them."""

    city: str


class Tell(Query[list[Any]]):
    stream: str


def build(url: str) -> CQRS:
    cqrs = CQRS(settings=Settings(database_url=url, service="club", personal_data_keys=f"main:{MASTER}"))
    bind_club(cqrs)
    bind_guests(cqrs)
    return cqrs


def bind_club(cqrs: CQRS) -> None:
    @cqrs.handles(Write)
    async def write(command: Write, clubs: Repository[Club]) -> None:
        (await clubs.get_or_new(command.club)).record(Wrote(member=command.member, words=command.words))

    @cqrs.handles(Count)
    async def count(command: Count, clubs: Repository[Club]) -> None:
        club = await clubs.get_or_new(command.club)
        if command.meanwhile is not None:
            await command.meanwhile()
        club.record(Counted(number=1))

    @cqrs.handles(Read)
    async def read(query: Read, clubs: Repository[Club]) -> tuple[list[str], int]:
        club = await clubs.get(query.club)
        return club.words, club.total

    @cqrs.handles(Tell)
    async def tell(query: Tell, store: EventStore) -> list[Any]:
        return [one.event async for one in store.read(query.stream)]


def _told(guest: Guest) -> Any:
    return guest.email, guest.home, guest.height


def bind_guests(cqrs: CQRS) -> None:
    @cqrs.handles(Invite)
    async def invite(command: Invite, guests: RootRepository[Guest]) -> UUID:
        home = None if command.street is None else Home(street=command.street)
        return guests.create(city=command.city, email=command.email, home=home, height=1_804_289_383).id

    @cqrs.handles(Move)
    async def move(command: Move, guests: RootRepository[Guest]) -> None:
        guest = await guests.get(command.id)
        if command.meanwhile is not None:
            await command.meanwhile()
        guest.city = command.city

    @cqrs.handles(WriteTo)
    async def write_to(command: WriteTo, guests: RootRepository[Guest]) -> None:
        (await guests.get(command.id)).email = command.email

    @cqrs.handles(Expel)
    async def expel(command: Expel, guests: RootRepository[Guest]) -> None:
        guests.delete(await guests.get(command.id))

    @cqrs.handles(Find)
    async def find(query: Find, guests: RootRepository[Guest]) -> list[str]:
        chosen, ordering = Guest.city == query.city, Guest.id.ascending()
        streamed = [_told(one) async for one in guests.stream(chosen, ordering=ordering)]
        found = await guests.find(chosen, ordering=ordering)
        assert streamed == [_told(one) for one in found]
        for one in found:
            await guests.refresh(one)
        assert streamed == [_told(one) for one in found]
        return [one.email for one in found]

    @cqrs.on(Created[Guest], name="welcome")
    async def welcome(event: Created[Guest]) -> None: ...

    @cqrs.on(Guest.email, name="tell")
    async def changed(event: Changed[Guest, str]) -> None: ...


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[CQRS]:
    """Without workers."""
    cqrs = build(url)
    if url.startswith("postgresql"):
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        yield cqrs


async def everything(cqrs: CQRS) -> str:
    """All rows of all tables, as text."""
    return "\n".join([repr([dict(row) for row in await rows_of(cqrs, table)]) for table in cqrs.database.tables.all()])
