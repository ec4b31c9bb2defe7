"""The service that decides: commands by HTTP, events in its store and outbox, a durable handler on its own store."""

from __future__ import annotations

import asyncio
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    ConcurrencyError,
    DomainError,
    MediatorDep,
    Metadata,
    Repository,
    RequestMediator,
    UnavailableError,
    applies,
)
from tools.messaging_torture.apps.entries import Entered, write_effect


class RefusedError(DomainError):
    code = "refused"


class Account(Aggregate, category="account"):
    count: int = 0

    @applies
    def on_entered(self, event: Entered) -> None:
        self.count = event.number


class Enter(Command[int]):
    client: int
    seq: int
    key: int
    parts: int = 1
    refused: bool = False


cqrs = CQRS()


@cqrs.handles(Enter)
async def enter(command: Enter, accounts: Repository[Account]) -> int:
    """A refusal comes after the events were recorded, so that there is something to undo."""
    account = await accounts.get_or_new(UUID(int=command.key))
    for part in range(1, command.parts + 1):
        number = account.count + 1
        account.record(
            Entered(client=command.client, seq=command.seq, part=part, key=command.key, number=number),
        )
    if command.refused:
        raise RefusedError("it was asked to be refused")
    return account.count


@cqrs.on(Entered, name="journal")
async def journal(event: Entered, session: AsyncSession, current: Metadata) -> None:
    await write_effect(session, "journal", current.message_id, event)


app = FastAPI()
cqrs.install(app)


@app.post("/batches")
async def post_batch(batch: list[Enter], mediator: MediatorDep) -> list[str]:
    """Each command is a unit of work of its own; together they spare the requests."""
    return list(await asyncio.gather(*(_outcome(mediator, command) for command in batch)))


async def _outcome(mediator: RequestMediator, command: Enter) -> str:
    """`fail` only where the framework promises that nothing was written."""
    try:
        await mediator.send(command)
    except (DomainError, ConcurrencyError, UnavailableError):
        return "fail"
    except Exception:  # noqa: BLE001  # whatever else it is, it does not say that nothing was written
        return "unknown"
    return "ok"
