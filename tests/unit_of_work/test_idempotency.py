"""Commands with an idempotency key, on both databases: carried out once, answered alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    DomainError,
    Event,
    Metadata,
    Next,
    Query,
    Repository,
    RequestMediator,
    Settings,
    applies,
)
from cqrs_fastapi.errors import IdempotencyKeyReusedError, UnknownOutcomeError
from cqrs_fastapi.eventstore import appender as appender_module
from cqrs_fastapi.messages.metadata import Origin, enter, leave
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio


class Paid(Event, topic="bank.paid"):
    amount: int


class Account(Aggregate):
    paid: int = 0

    @applies
    def on_paid(self, event: Paid) -> None:
        self.paid += event.amount


class Receipt(Event):
    account: UUID
    paid: int


class Pay(Command[Receipt]):
    account: UUID
    amount: int


class PayBySession(Command[None]):
    account: UUID


class PayInside(Command[None]):
    pass


class Look(Query[int]):
    pass


class AlreadyPaidError(DomainError):
    code = "already_paid"


@dataclass
class Bank:
    cqrs: CQRS
    database: Database
    handled: int = 0
    seen: int = 0
    pause: float = 0.0


@pytest.fixture
async def bank(database_url: str) -> AsyncIterator[Bank]:
    async def seen(message: object, call_next: Next) -> object:
        bank.seen += isinstance(message, Pay)
        return await call_next(message)

    cqrs = CQRS(settings=Settings(database_url=database_url), behaviors=[seen])
    bank = Bank(cqrs, Database(Settings(database_url=database_url)))

    @cqrs.handles(Pay)
    async def pay(command: Pay, accounts: Repository[Account]) -> Receipt:
        bank.handled += 1
        account = await accounts.get_or_new(command.account)
        await asyncio.sleep(bank.pause)
        if account.paid:
            raise AlreadyPaidError("paid")
        account.record(Paid(amount=command.amount))
        return Receipt(account=command.account, paid=account.paid)

    @cqrs.handles(PayBySession)
    async def pay_by_session(_: PayBySession, session: AsyncSession) -> None:
        bank.handled += 1
        await session.execute(select(1))

    @cqrs.handles(PayInside)
    async def pay_inside(_: PayInside, mediator: RequestMediator) -> None:
        await mediator.send(PayBySession(account=uuid4()), idempotency_key="inner")

    @cqrs.handles(Look)
    async def look(_: Look) -> int:
        return 1

    if bank.database.dialect == "postgresql":
        async with bank.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    await bank.database.open()
    async with cqrs.running(workers=()):
        yield bank
    await bank.database.close()


async def count(bank: Bank, table: str) -> int:
    found: Any = getattr(bank.database.tables, table)
    return len(await bank.database.read(lambda c: c.execute(found.select()).all()))


async def test_the_second_is_answered_as_the_first_and_does_nothing(bank: Bank) -> None:
    command, send = Pay(account=uuid4(), amount=5), bank.cqrs.mediator.send

    first = await send(command, idempotency_key="k-1")
    second = await send(command, idempotency_key="k-1")

    assert first == second == Receipt(account=command.account, paid=5)
    assert bank.handled == 1
    assert bank.seen == 2  # behaviors, which may refuse, surround the repeated answer too
    assert (await count(bank, "events"), await count(bank, "outbox"), await count(bank, "idempotency")) == (1, 1, 1)


async def test_another_key_is_another_order(bank: Bank) -> None:
    for key in ("k-1", "k-2"):
        await bank.cqrs.mediator.send(Pay(account=uuid4(), amount=5), idempotency_key=key)
    assert await count(bank, "events") == 2


async def test_the_same_key_with_another_content_is_refused(bank: Bank) -> None:
    account = uuid4()
    await bank.cqrs.mediator.send(Pay(account=account, amount=5), idempotency_key="k")
    with pytest.raises(IdempotencyKeyReusedError, match="'k'"):
        await bank.cqrs.mediator.send(Pay(account=account, amount=6), idempotency_key="k")
    assert await count(bank, "events") == 1


async def test_keys_belong_to_their_tenant_and_user(bank: Bank) -> None:
    command = PayBySession(account=uuid4())
    for user, tenant in (("ann", "red"), ("bob", "red"), ("ann", "blue"), ("ann", "red")):
        metadata = Metadata(message_id=uuid4(), correlation_id="c", time=datetime.now(UTC), user=user, tenant=tenant)
        token = enter(Origin(metadata))
        try:
            await bank.cqrs.mediator.send(command, idempotency_key="k")
        finally:
            leave(token)
    assert bank.handled == 3


async def test_of_many_at_once_one_is_carried_out_and_all_are_answered_alike(bank: Bank) -> None:
    bank.pause = 0.02
    command = Pay(account=uuid4(), amount=5)
    answers = await asyncio.gather(
        *(bank.cqrs.mediator.send(command, idempotency_key="k") for _ in range(20)),
    )
    assert answers == [Receipt(account=command.account, paid=5)] * 20
    assert await count(bank, "events") == 1


async def test_a_command_that_failed_may_be_sent_again(bank: Bank) -> None:
    account = uuid4()
    await bank.cqrs.mediator.send(Pay(account=account, amount=5), idempotency_key="first")
    for _ in range(2):
        with pytest.raises(AlreadyPaidError):
            await bank.cqrs.mediator.send(Pay(account=account, amount=6), idempotency_key="second")
    assert bank.handled == 3


async def test_a_record_is_kept_where_nothing_else_was_written_and_none_is_an_answer(bank: Bank) -> None:
    command = PayBySession(account=uuid4())
    for _ in range(2):
        assert await bank.cqrs.mediator.send(command, idempotency_key="k") is None
    assert bank.handled == 1


async def test_an_unknown_outcome_is_settled_by_the_second_attempt(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit happens and its answer is lost, as far up as the command's own unit of work."""
    append, lost = appender_module.Appender.append, []

    async def lose(self: appender_module.Appender, unit: Any) -> Any:
        versions = await append(self, unit)
        if not lost:
            lost.append(unit)
            raise UnknownOutcomeError("the answer was lost")
        return versions

    monkeypatch.setattr(appender_module.Appender, "append", lose)
    command = Pay(account=uuid4(), amount=5)
    assert await bank.cqrs.mediator.send(command, idempotency_key="k") == Receipt(account=command.account, paid=5)
    assert lost
    assert await count(bank, "events") == 1


async def test_keys_are_for_the_outermost_command(bank: Bank) -> None:
    send = bank.cqrs.mediator.send
    with pytest.raises(TypeError, match="outermost"):
        await send(PayInside())
    with pytest.raises(TypeError, match="no command"):
        await send(Look(), idempotency_key="k")
    for key in ("", "a b", "ä", "x" * 201):
        with pytest.raises(ValueError, match="1 to 200"):
            await send(PayBySession(account=uuid4()), idempotency_key=key)
