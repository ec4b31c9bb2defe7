"""The whole of it: a program as a user writes it, on a file of SQLite."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    DomainError,
    Event,
    MediatorDep,
    Metadata,
    Query,
    Repository,
    Settings,
    applies,
)


class Deposited(Event):
    amount: int


class TooPoorError(DomainError):
    code = "too_poor"


class Account(Aggregate):
    balance: int = 0

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Deposit(Command[int]):
    account_id: UUID
    amount: int


class GetBalance(Query[int]):
    account_id: UUID


class WhoAmI(Query[list[str | None]]):
    pass


async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
    account = await accounts.get_or_new(command.account_id)
    if account.balance + command.amount < 0:
        raise TooPoorError(f"the account holds {account.balance}")
    account.record(Deposited(amount=command.amount))
    return account.balance


async def get_balance(query: GetBalance, accounts: Repository[Account]) -> int:
    return (await accounts.get(query.account_id)).balance


async def who_am_i(query: WhoAmI, metadata: Metadata) -> list[str | None]:
    return [metadata.correlation_id, metadata.user, metadata.tenant]


def identify(connection: HTTPConnection) -> tuple[str | None, str | None]:
    return getattr(connection.state, "user", None), "acme"


@pytest.fixture
def program(sqlite_url: str) -> FastAPI:
    cqrs = CQRS(settings=Settings(database_url=sqlite_url, run_in_app=("relay", "consumer")))
    cqrs.handles(Deposit)(deposit)
    cqrs.handles(GetBalance)(get_balance)
    cqrs.handles(WhoAmI)(who_am_i)
    app = FastAPI()
    cqrs.install(app, identify=identify, statuses={TooPoorError: 409})

    @app.post("/deposits")
    async def post_deposit(command: Deposit, mediator: MediatorDep) -> int:
        return await mediator.send(command)

    @app.get("/accounts/{account_id}")
    async def account(account_id: UUID, mediator: MediatorDep) -> int:
        return await mediator.send(GetBalance(account_id=account_id))

    @app.get("/me")
    async def me(mediator: MediatorDep) -> list[str | None]:
        return await mediator.send(WhoAmI())

    return app


def posted(client: TestClient, account_id: UUID, amount: int) -> Any:
    return client.post("/deposits", json={"account_id": str(account_id), "amount": amount})


def test_a_command_is_committed_when_its_request_is_answered(program: FastAPI) -> None:
    account_id = uuid4()
    with TestClient(program) as client:
        assert [posted(client, account_id, 5).json(), posted(client, account_id, 5).json()] == [5, 10]
        assert client.get("/health/ready").status_code == 200
    with TestClient(program) as client:
        assert client.get(f"/accounts/{account_id}").json() == 10


def test_refusals_of_handlers_are_problems(program: FastAPI) -> None:
    account_id = uuid4()
    with TestClient(program) as client:
        missing = client.get(f"/accounts/{account_id}")
        poor = posted(client, account_id, -1)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (poor.status_code, poor.json()["code"]) == (409, "too_poor")
    assert poor.json()["detail"] == "the account holds 0"


def test_a_handler_sees_where_its_request_comes_from(program: FastAPI) -> None:
    with TestClient(program) as client:
        assert client.get("/me", headers={"X-Correlation-ID": "call-7"}).json() == ["call-7", None, "acme"]
