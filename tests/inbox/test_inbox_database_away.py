"""A handler whose own statement meets a database that is away, or a deadlock, has not failed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Command, Event, Settings, UnitOfWork
from cqrs_fastapi.testing import Harness

pytestmark = pytest.mark.anyio

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
DEADLOCK = "DO $$ BEGIN RAISE EXCEPTION 'both wait' USING ERRCODE = '40P01'; END $$"
WRONG = "SELECT no_such_column"


class Sold(Event, name="away.sold"):
    pass


class Sell(Command[None]):
    pass


def make_cqrs(url: str, statement: str, tries: list[str]) -> CQRS:
    settings = Settings(database_url=url, handler_attempts=2, retry_backoff=timedelta(milliseconds=1))
    cqrs = CQRS(settings=settings)

    @cqrs.handles(Sell)
    async def sell(_command: Sell, unit: UnitOfWork) -> None:
        unit.publish(Sold())

    @cqrs.on(Sold)
    async def note(_event: Sold, session: AsyncSession) -> None:
        tries.append(statement)
        if len(tries) < 5:
            await session.execute(text(statement))

    return cqrs


@pytest.mark.parametrize("statement", [DIE, DEADLOCK])
async def test_what_passes_by_itself_is_tried_again_without_counting(postgres_url: str, statement: str) -> None:
    tries: list[str] = []
    async with Harness(make_cqrs(postgres_url, statement, tries), database_url=postgres_url) as harness:
        await harness.send(Sell())
        await harness.settle()
    assert len(tries) == 5


async def test_a_statement_that_is_wrong_is_the_handlers_own_error(postgres_url: str) -> None:
    tries: list[str] = []
    async with Harness(make_cqrs(postgres_url, WRONG, tries), database_url=postgres_url) as harness:
        await harness.send(Sell())
        await harness.settle(dead_letters=True)
        assert len(await harness.dead_letters()) == 1
    assert len(tries) == 2
