"""Many commands on one aggregate at once, on both databases: all of them happen, each on top of the one before."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import select

from cqrs_fastapi import CQRS, Aggregate, Command, Event, MediatorDep, Repository, Settings, applies
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

PATIENCE = timedelta(seconds=150)
"""Each of a thousand decisions folds up to a thousand events, which takes a busy machine some time."""


class Deposited(Event):
    amount: int


class Account(Aggregate):
    balance: int = 0

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Deposit(Command[int]):
    account: UUID
    number: int = 0


@dataclass
class Bank:
    """An application that counts how often each command was decided."""

    cqrs: CQRS
    decided: Counter[int] = field(default_factory=Counter)
    rival: CQRS | None = None
    """Writes the account between each decision and its commit."""

    async def deposit(self, account: UUID, number: int) -> int:
        return await self.cqrs.mediator.send(Deposit(account=account, number=number))


def bank(url: str, *, timeout: timedelta = PATIENCE, retries: int = 10) -> Bank:
    settings = Settings(
        database_url=url,
        max_units_of_work=2000,
        pool_timeout=PATIENCE,
        command_timeout=timeout,
        conflict_retries=retries,
    )
    bank = Bank(CQRS(settings=settings))

    @bank.cqrs.handles(Deposit)
    async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
        bank.decided[command.number] += 1
        account = await accounts.get_or_new(command.account)
        account.record(Deposited(amount=1))
        if bank.rival is not None:
            await bank.rival.mediator.send(Deposit(account=command.account))
        return account.balance

    return bank


@asynccontextmanager
async def running(*banks: Bank) -> AsyncIterator[None]:
    """All of them on the database of the first."""
    database = banks[0].cqrs.database
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with asyncio.TaskGroup() as group:
        ready, over = [asyncio.Event() for _ in banks], asyncio.Event()

        async def run(bank: Bank, is_ready: asyncio.Event) -> None:
            async with bank.cqrs.running(workers=()):
                is_ready.set()
                await over.wait()

        for one, is_ready in zip(banks, ready, strict=True):
            group.create_task(run(one, is_ready))
        for is_ready in ready:
            await is_ready.wait()
        try:
            yield
        finally:
            over.set()


async def versions(bank: Bank) -> list[int]:
    events = bank.cqrs.database.tables.events
    query = select(events.c.version).order_by(events.c.position)
    return await bank.cqrs.database.read(lambda connection: list(connection.execute(query).scalars()))


def tell(what: str, started: float, *banks: Bank) -> None:
    """What `pytest -s` shows: the numbers are for reading, and depend on the machine."""
    decided = [count for bank in banks for count in bank.decided.values()]
    mean, seconds = sum(decided) / len(decided), time.perf_counter() - started
    print(f"\n{what}: {seconds:.1f} s, decisions of a command: {mean:.2f} on average, {max(decided)} at most")  # noqa: T201


async def test_a_thousand_concurrent_commands_on_one_aggregate_all_succeed(database_url: str) -> None:
    one, account, started = bank(database_url), uuid4(), time.perf_counter()
    async with running(one):
        balances = await asyncio.gather(*(one.deposit(account, number) for number in range(1000)))

        assert sorted(balances) == list(range(1, 1001))
        assert await versions(one) == list(range(1, 1001))
    tell("1,000 commands", started, one)
    assert max(one.decided.values()) <= 10


async def test_two_applications_on_one_database_do_not_starve_each_other(postgres_url: str) -> None:
    banks, account, started = (bank(postgres_url), bank(postgres_url)), uuid4(), time.perf_counter()
    async with running(*banks):
        balances = await asyncio.gather(*(each.deposit(account, number) for number in range(200) for each in banks))

        assert sorted(balances) == list(range(1, 401))
        assert await versions(banks[0]) == list(range(1, 401))
    tell("2 x 200 commands", started, *banks)


async def test_no_client_is_overtaken_for_good_by_those_who_come_again_and_again(database_url: str) -> None:
    one, account, done = bank(database_url), uuid4(), Counter[int]()

    async def client(number: int) -> None:
        while min(done.values()) < 5:
            await one.deposit(account, number)
            done[number] += 1

    async with running(one):
        done.update(dict.fromkeys(range(20), 0))
        await asyncio.gather(*(client(number) for number in range(20)))

        assert await versions(one) == list(range(1, done.total() + 1))


@pytest.mark.parametrize("retries", [0, 10])
async def test_a_command_that_gives_up_is_answered_409_and_may_be_sent_again(database_url: str, retries: int) -> None:
    one, rival = bank(database_url, timeout=timedelta(seconds=1), retries=retries), bank(database_url)
    one.rival = rival.cqrs
    app = FastAPI()
    one.cqrs.install(app)

    @app.post("/deposits")
    async def post(command: Deposit, mediator: MediatorDep) -> int:
        return await mediator.send(command)

    async with running(one, rival), AsyncClient(transport=ASGITransport(app), base_url="http://bank") as client:
        body = {"account": str(uuid4()), "number": 1}
        refused = await client.post("/deposits", json=body)
        one.rival = None
        repeated = await client.post("/deposits", json=body)

        assert (refused.status_code, refused.json()["code"]) == (409, "concurrency")
        assert int(refused.headers["Retry-After"]) >= 1
        assert repeated.status_code == 200
        assert len(await versions(one)) == rival.decided.total() + 1
