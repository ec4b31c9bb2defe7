"""An application with personal data in every place, and what tests look at."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    Event,
    EventStore,
    Personal,
    PersonalData,
    Projection,
    Query,
    Repository,
    Settings,
    UnitOfWork,
    applies,
    on,
)
from cqrs_fastapi.migrations import upgrade

MASTER = base64.b64encode(bytes(range(32))).decode()

overview = Table(
    "overview",
    MetaData(),
    Column("n", Integer, primary_key=True),
    Column("customer", String),
    Column("email", String),
)


class Address(Event):
    street: str
    lines: tuple[str, ...] = ()


class Registered(Event, name="customer.registered", topic="customers", subject="customer_id"):
    customer_id: UUID
    email: Personal[str]
    age: Annotated[int, PersonalData(forgotten=-1)] = 0
    address: Personal[Address | None] = None
    note: str = ""


class Renamed(Event, subject="customer_id"):
    customer_id: UUID
    name: Personal[str]


class Greeted(Event, topic="greetings", subject="customer_id"):
    """It belongs to no stream."""

    customer_id: UUID
    greeting: Personal[str]


class Plain(Event):
    text: str


class Customer(Aggregate):
    email: str = ""
    name: str = ""
    age: int = 0

    @applies
    def on_registered(self, event: Registered) -> None:
        self.email, self.age = event.email, event.age

    @applies
    def on_renamed(self, event: Renamed) -> None:
        self.name = event.name


class Register(Command[None]):
    id: UUID
    email: str
    address: Address | None = None
    note: str = ""
    subject: UUID | None = None


class Rename(Command[None]):
    id: UUID
    name: str


class RegisterInSession(Command[None]):
    """It has a session open, and writes what it knows into a table."""

    id: UUID
    email: str
    fails: bool = False


class Copy(Command[None]):
    """It reads an aggregate and writes what it read into a table."""

    id: UUID


class Greet(Command[None]):
    id: UUID
    greeting: str


class Look(Query[tuple[str, str, int]]):
    id: UUID


class History(Query[list[Any]]):
    stream: str


class Overview(Projection, version=1):
    @on(Registered)
    async def registered(self, event: Registered, session: AsyncSession) -> None:
        await session.execute(insert(overview).values(customer=str(event.customer_id), email=event.email))


def build(url: str, *, keys: str | None = f"main:{MASTER}", projects: bool = True, **settings: Any) -> CQRS:
    given: dict[str, Any] = {"service": "tests", "retry_backoff": "PT0.01S", "handler_attempts": 2, **settings}
    cqrs = CQRS(settings=Settings(database_url=url, personal_data_keys=keys, **given))
    cqrs.register(Greeted, Plain)
    cqrs.personal_data.purge(overview, subject=overview.c.customer)
    if projects:
        cqrs.projections.include(Overview)

    @cqrs.handles(Register)
    async def register(command: Register, customers: Repository[Customer]) -> None:
        customer = await customers.get_or_new(command.id)
        customer.record(
            Registered(
                customer_id=command.subject or command.id,
                email=command.email,
                age=44,
                address=command.address,
                note=command.note,
            )
        )

    @cqrs.handles(Rename)
    async def rename(command: Rename, customers: Repository[Customer]) -> None:
        customer = await customers.get(command.id)
        customer.record(Renamed(customer_id=command.id, name=command.name))

    @cqrs.handles(RegisterInSession)
    async def register_in_session(
        command: RegisterInSession, customers: Repository[Customer], session: AsyncSession
    ) -> None:
        await session.execute(insert(overview).values(customer=str(command.id), email=command.email))
        customer = await customers.get_or_new(command.id)
        customer.record(Registered(customer_id=command.id, email=command.email))
        if command.fails:
            raise RuntimeError("planned")

    @cqrs.handles(Copy)
    async def copy(command: Copy, customers: Repository[Customer], session: AsyncSession) -> None:
        customer = await customers.get(command.id)
        await session.execute(insert(overview).values(customer=str(command.id), email=customer.email))

    @cqrs.handles(Greet)
    async def greet(command: Greet, unit: UnitOfWork) -> None:
        unit.publish(Greeted(customer_id=command.id, greeting=command.greeting))

    @cqrs.handles(Look)
    async def look(query: Look, customers: Repository[Customer]) -> tuple[str, str, int]:
        customer = await customers.get(query.id)
        return customer.email, customer.name, customer.age

    @cqrs.handles(History)
    async def history(query: History, store: EventStore) -> list[Any]:
        return [one.event async for one in store.read(query.stream)]

    return cqrs


async def prepare(cqrs: CQRS) -> None:
    async with cqrs.database.engine.begin() as connection:
        if cqrs.database.dialect == "postgresql":
            await connection.run_sync(upgrade)
        await connection.run_sync(overview.create)


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[CQRS]:
    """Without workers."""
    cqrs = build(url, **settings)
    await prepare(cqrs)
    async with cqrs.running(workers=()):
        yield cqrs


async def rows_of(cqrs: CQRS, table: Table) -> list[Any]:
    return await cqrs.database.read(lambda connection: list(connection.execute(select(table)).mappings()))


async def everything(cqrs: CQRS) -> str:
    """All rows of all tables, as text."""
    tables = [*cqrs.database.tables.all(), overview]
    return "\n".join([repr([dict(row) for row in await rows_of(cqrs, table)]) for table in tables])
