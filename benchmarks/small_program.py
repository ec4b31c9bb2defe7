from uuid import UUID

from fastapi import FastAPI

from cqrs_fastapi import CQRS, Aggregate, Command, Event, MediatorDep, Repository, applies


class Deposited(Event):
    amount: int


class Account(Aggregate):
    balance: int = 0

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Deposit(Command[int]):
    account_id: UUID
    amount: int


cqrs = CQRS()


@cqrs.handles(Deposit)
async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
    account = await accounts.get_or_new(command.account_id)
    account.record(Deposited(amount=command.amount))
    return account.balance


app = FastAPI()
cqrs.install(app)


@app.post("/deposits")
async def post_deposit(command: Deposit, mediator: MediatorDep) -> int:
    return await mediator.send(command)
