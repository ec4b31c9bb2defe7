"""The overview of orders: the projection that writes it, and the queries that read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CursorResult, Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import Metadata, Projection, on
from example_app.adapters.tables import order_overviews
from example_app.application.views import OrderSummary, OverviewStatus
from example_app.domain.money import Money
from example_app.domain.order_events import OrderCancelled, OrderPaid, OrderPlaced, OrderShipped

_ROWS: Final = order_overviews.c


class OverviewMissingError(LookupError):
    """An order changed that the overview has never seen: its events came out of order, or one was lost."""


class OrderOverview(Projection, version=1):
    """Each event is projected once and those of one order in their order, so these are plain inserts and updates.

    `changes` counts them: an event that was projected twice, or never, would show in it.
    """

    @on(OrderPlaced)
    async def placed(self, event: OrderPlaced, session: AsyncSession, metadata: Metadata) -> None:
        row = {
            "order_id": event.order_id,
            "customer_id": event.customer_id,
            "status": "placed",
            "total_cents": event.total.cents,
            "currency": event.total.currency,
            "pieces": sum(line.quantity for line in event.lines),
            "placed_at": metadata.time,
            "changed_at": metadata.time,
            "changes": 1,
        }
        await session.execute(insert(order_overviews).values(row))

    @on(OrderPaid)
    async def paid(self, event: OrderPaid, session: AsyncSession, metadata: Metadata) -> None:
        await _change(session, metadata, event.order_id, status="paid")

    @on(OrderCancelled)
    async def cancelled(self, event: OrderCancelled, session: AsyncSession, metadata: Metadata) -> None:
        await _change(session, metadata, event.order_id, status="cancelled")

    @on(OrderShipped)
    async def shipped(self, event: OrderShipped, session: AsyncSession, metadata: Metadata) -> None:
        await _change(session, metadata, event.order_id, status="shipped", tracking=event.tracking)


class SqlOrderOverviews:
    """Reads what the projection wrote; implements OrderOverviews."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, order_id: UUID) -> OrderSummary | None:
        row = (await self._session.execute(select(order_overviews).where(_ROWS.order_id == order_id))).one_or_none()
        return None if row is None else _summary(row)

    async def page(self, *, after: UUID | None, limit: int, status: OverviewStatus | None) -> Sequence[OrderSummary]:
        query = select(order_overviews).order_by(_ROWS.order_id).limit(limit)
        if after is not None:
            query = query.where(_ROWS.order_id > after)
        if status is not None:
            query = query.where(_ROWS.status == status)
        return [_summary(row) for row in await self._session.execute(query)]

    async def unpaid_since(self, moment: datetime, *, limit: int) -> Sequence[UUID]:
        query = select(_ROWS.order_id).where(_ROWS.status == "placed", _ROWS.placed_at < moment)
        found = await self._session.scalars(query.order_by(_ROWS.placed_at).limit(limit))
        return found.all()


async def _change(session: AsyncSession, metadata: Metadata, order_id: UUID, **values: str) -> None:
    statement = (
        update(order_overviews)
        .where(_ROWS.order_id == order_id)
        .values(**values, changed_at=metadata.time, changes=_ROWS.changes + 1)
    )
    result = await session.execute(statement)
    if isinstance(result, CursorResult) and result.rowcount == 0:
        raise OverviewMissingError(f"order {order_id} is not in the overview")


def _summary(row: Row[Any]) -> OrderSummary:
    return OrderSummary(
        order_id=row.order_id,
        customer_id=row.customer_id,
        status=row.status,
        total=Money(row.total_cents, row.currency),
        pieces=row.pieces,
        placed_at=row.placed_at,
        changed_at=row.changed_at,
        tracking=row.tracking,
        changes=row.changes,
    )
