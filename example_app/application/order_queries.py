"""Questions about orders: the overview answers from the read model, the history from the event store."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from cqrs_fastapi import EventStore, NotFoundError, Query, RequestMap
from example_app.application.ports import OrderOverviews
from example_app.application.views import HistoryEntry, OrderPage, OrderSummary, OverviewStatus
from example_app.domain.order import Order

requests = RequestMap()


class GetOrder(Query[OrderSummary]):
    order_id: UUID


class ListOrders(Query[OrderPage]):
    after: UUID | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100
    status: OverviewStatus | None = None


class GetOrderHistory(Query[tuple[HistoryEntry, ...]]):
    order_id: UUID


@requests.handles(GetOrder)
async def get_order(query: GetOrder, overviews: OrderOverviews) -> OrderSummary:
    found = await overviews.find(query.order_id)
    if found is None:
        raise NotFoundError(kind="Order", identifier=str(query.order_id))
    return found


@requests.handles(ListOrders)
async def list_orders(query: ListOrders, overviews: OrderOverviews) -> OrderPage:
    # One more than asked for tells whether there is another page.
    found = tuple(await overviews.page(after=query.after, limit=query.limit + 1, status=query.status))
    orders = found[: query.limit]
    return OrderPage(orders=orders, next=orders[-1].order_id if len(found) > query.limit else None)


@requests.handles(GetOrderHistory)
async def get_order_history(query: GetOrderHistory, store: EventStore) -> tuple[HistoryEntry, ...]:
    recorded = [one async for one in store.read(Order(query.order_id).stream)]
    if not recorded:
        raise NotFoundError(kind="Order", identifier=str(query.order_id))
    return tuple(
        HistoryEntry(
            version=one.version,
            event=type(one.event).__event__.name,
            message_id=one.message_id,
            recorded_at=one.recorded_at,
        )
        for one in recorded
    )
