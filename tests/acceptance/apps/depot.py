"""A depot that carries out orders which come over the broker, run by the acceptance tests as processes that are killed.

`DIE_AT` says where the next process dies by SIGKILL: `inside`, after the effect and before the commit; `committed`,
after the commit and before anything else, so that neither the reply was sent nor the offset moved.
"""

from __future__ import annotations

import os
import signal

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, BrokerRouter, Command, DomainError, Metadata, Next, Query

tables = MetaData()
orders = Table(
    "depot_orders",
    tables,
    Column("n", Integer, primary_key=True),
    Column("item", String),
    Column("user", String),
    Column("process", Integer),
)
RUN = os.environ.get("DEPOT_RUN", "")


class Order(Command[int]):
    item: str


class Ordered(Query[list[str]]):
    pass


class UnknownItemError(DomainError):
    code = "unknown_item"


def die(where: str) -> None:
    if os.environ.get("DIE_AT") == where:
        os.kill(os.getpid(), signal.SIGKILL)


async def dies_after_the_commit(message: object, call_next: Next, /) -> object:
    result = await call_next(message)
    if isinstance(message, Order):
        die("committed")
    return result


cqrs = CQRS(behaviors=[dies_after_the_commit])


@cqrs.handles(Order)
async def order(command: Order, session: AsyncSession, metadata: Metadata) -> int:
    if command.item == "nothing":
        raise UnknownItemError("we have no nothing")
    await session.execute(insert(orders).values(item=command.item, user=metadata.user, process=os.getpid()))
    die("inside")
    return (await session.execute(select(func.count()).select_from(orders))).scalar_one()


@cqrs.handles(Ordered)
async def ordered(query: Ordered, session: AsyncSession) -> list[str]:
    del query
    return list((await session.execute(select(orders.c.item).order_by(orders.c.n))).scalars())


router = BrokerRouter()
router.command(f"Order{RUN}", Order)
router.query(f"Ordered{RUN}", Ordered)
cqrs.brokers.include(router)
