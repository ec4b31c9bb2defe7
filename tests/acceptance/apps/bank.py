"""A small bank that uses every part once: run by the acceptance tests as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from dependency_injector import providers
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    CqrsContainer,
    DomainError,
    Event,
    EventMap,
    EventMediator,
    EventMediatorDep,
    MediatorDep,
    Metadata,
    Next,
    Projection,
    Provides,
    Query,
    Repository,
    Request,
    RequestHandler,
    RequestMap,
    RequestMediator,
    StreamRequest,
    Tick,
    applies,
    command,
    event,
    mediator,
    on,
)

tables = MetaData()
seen = Table(
    "bank_seen", tables, Column("n", Integer, primary_key=True), Column("what", String), Column("detail", String)
)
totals = Table("bank_totals", tables, Column("account", String, primary_key=True), Column("total", Integer))


class Deposited(Event, name="bank.deposited", version=2, topic="bank.acceptance"):
    account: UUID
    amount: int


@event(name="bank.noted", topic="bank.acceptance")
@dataclass(frozen=True)
class Noted:
    text: str


@event(name="bank.counted")
class Counted(msgspec.Struct, frozen=True):
    count: int


class OverdrawnError(DomainError):
    code = "overdrawn"


class Account(Aggregate, category="account"):
    balance: int = 0

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Deposit(Command[int]):
    account: UUID
    amount: int


@command
@dataclass(frozen=True)
class Note(Request[str]):
    text: str


class Count(Command[None]):
    count: int


class GetTotal(Query[int]):
    account: UUID


class GetSeen(Query[list[str]]):
    pass


class Lifetimes(Query[dict[str, Any]]):
    pass


class NameTrail(Query[str]):
    pass


class Numbers(StreamRequest[int]):
    up_to: int


class Rates:
    """Lives as long as the application; opened and closed with it."""

    factor = 0

    def __init__(self) -> None:
        self.name = uuid4().hex


class Fees:
    def __init__(self, rates: Rates, session: AsyncSession) -> None:
        self.rates, self.session = rates, session
        self.name = uuid4().hex


class Trail:
    """Lives as long as one message."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.name = uuid4().hex


async def open_rates() -> AsyncIterator[Rates]:
    rates = Rates()
    rates.factor = 1
    yield rates
    rates.factor = 0


async def open_trail(session: AsyncSession) -> AsyncIterator[Trail]:
    trail = Trail()
    yield trail
    assert trail.lines, "a trail is asked for to be written"


class Container(CqrsContainer):
    rates = providers.Resource(open_rates)
    fees = providers.Factory(Fees, rates=rates)
    trail = providers.Factory(open_trail)
    greeting: Provides[str] = providers.Singleton(str, "noted")


class Tagging:
    """A behavior that leaves a mark on what a note is answered with."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    async def __call__(self, message: object, call_next: Next, /) -> object:
        answer = await call_next(message)
        return f"{self.tag}({answer})" if isinstance(message, Note) else answer


requests = RequestMap(behaviors=[Tagging("map")])
events = EventMap()


@requests.handles(Note, behaviors=[Tagging("binding")])
async def note(command: Note, events: EventMediator, trail: Trail, greeting: str) -> str:
    trail.lines.append(command.text)
    await events.publish(Noted(command.text))
    return f"{greeting} {command.text}"


@requests.handles(Deposit)
class DepositHandler(RequestHandler[Deposit, int]):
    def __init__(self, accounts: Repository[Account], fees: Fees) -> None:
        self.accounts, self.fees = accounts, fees

    async def handle(self, command: Deposit) -> int:
        account = await self.accounts.get_or_new(command.account)
        if account.balance + command.amount < 0:
            raise OverdrawnError(f"the account holds {account.balance}")
        account.record(Deposited(account=command.account, amount=command.amount * self.fees.rates.factor))
        return account.balance


@requests.handles(Lifetimes)
class LifetimesHandler(RequestHandler[Lifetimes, dict[str, Any]]):
    def __init__(self, fees: Fees, trail: Trail, greeting: str, mediator: RequestMediator) -> None:
        self.fees, self.trail, self.greeting, self.mediator = fees, trail, greeting, mediator

    async def handle(self, _: Lifetimes) -> dict[str, Any]:
        self.trail.lines.append("asked")
        return {
            "greeting": self.greeting,
            "rates": self.fees.rates.name,
            "rates_are_open": self.fees.rates.factor == 1,
            "fees": self.fees.name,
            "trail": self.trail.name,
            "trail_of_the_nested_request": await self.mediator.send(NameTrail()),
        }


@requests.handles(NameTrail)
async def name_trail(_: NameTrail, trail: Trail) -> str:
    return trail.name


@requests.handles(Count)
async def count(command: Count, events: EventMediator) -> None:
    await events.publish(Counted(command.count))


@requests.handles(GetTotal)
async def get_total(query: GetTotal, session: AsyncSession) -> int:
    found = await session.execute(select(totals.c.total).where(totals.c.account == str(query.account)))
    return found.scalar() or 0


@requests.handles(GetSeen)
async def get_seen(query: GetSeen, session: AsyncSession) -> list[str]:
    rows = await session.execute(select(seen.c.what, seen.c.detail).order_by(seen.c.n))
    return [f"{what} {detail}" for what, detail in rows]


@requests.handles(Numbers)
async def numbers(request: Numbers) -> AsyncIterator[int]:
    for number in range(request.up_to):
        yield number


@events.on(Noted, name="notes")
async def see_note(event: Noted, session: AsyncSession, metadata: Metadata) -> None:
    await session.execute(insert(seen).values(what="note", detail=event.text))


@events.on(Counted, name="counts")
async def see_count(event: Counted, session: AsyncSession) -> None:
    await session.execute(insert(seen).values(what="count", detail=str(event.count)))


class Totals(Projection):
    @on(Deposited)
    async def deposited(self, event: Deposited, session: AsyncSession) -> None:
        account = str(event.account)
        await session.execute(insert(seen).values(what=account, detail=str(event.amount)))
        held = (await session.execute(select(totals.c.total).where(totals.c.account == account))).scalar()
        if held is None:
            await session.execute(insert(totals).values(account=account, total=event.amount))
        else:
            changed = totals.update().where(totals.c.account == account).values(total=held + event.amount)
            await session.execute(changed)


cqrs = CQRS(requests=requests, events=events, container=Container(), behaviors=[Tagging("app")])
cqrs.projections.include(Totals)


@cqrs.job(every=timedelta(seconds=1), name="bank.tick")
async def tick(tick: Tick, session: AsyncSession) -> None:
    await session.execute(insert(seen).values(what="tick", detail=tick.scheduled_at.isoformat()))


app = FastAPI()
cqrs.install(app, statuses={OverdrawnError: 409})


@app.post("/deposits")
async def post_deposit(command: Deposit, mediator: RequestMediator = Depends(mediator)) -> int:
    return await mediator.send(command)


@app.post("/notes/{text}")
async def post_note(text: str, mediator: MediatorDep) -> str:
    return await mediator.send(Note(text))


@app.post("/published/{count}")
async def post_published(count: int, events: EventMediatorDep) -> None:
    await events.publish(Counted(count))


@app.get("/totals/{account}")
async def read_total(account: UUID, mediator: MediatorDep) -> int:
    return await mediator.send(GetTotal(account=account))


@app.get("/lifetimes")
async def read_lifetimes(mediator: MediatorDep) -> dict[str, Any]:
    return await mediator.send(Lifetimes())


@app.get("/seen")
async def read_seen(mediator: MediatorDep) -> list[str]:
    return await mediator.send(GetSeen())


@app.get("/numbers/{up_to}")
async def read_numbers(up_to: int, mediator: MediatorDep) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        async for number in mediator.stream(Numbers(up_to=up_to)):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")
