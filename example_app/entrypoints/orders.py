"""Routes of orders. Whatever a route answers has been committed before."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from cqrs_fastapi import MediatorDep, RequestMediator, mediator
from example_app.application.order_queries import GetOrder, GetOrderHistory, ListOrders
from example_app.application.orders import CancelOrder, PayOrder, PlaceOrder
from example_app.application.views import HistoryEntry, OrderPage, OrderSummary
from example_app.entrypoints.bodies import Cancellation, OrderMade, Payment

router = APIRouter(prefix="/orders", tags=["orders"])


# The dependency in full; `MediatorDep` on the other routes is short for it.
@router.post("", status_code=201)
async def place_order(
    command: PlaceOrder,
    mediator: RequestMediator = Depends(mediator),  # noqa: B008, FAST002  # shown on purpose
) -> OrderMade:
    return OrderMade(order_id=await mediator.send(command))


@router.get("")
async def list_orders(query: Annotated[ListOrders, Query()], mediator: MediatorDep) -> OrderPage:
    return await mediator.send(query)


@router.get("/{order_id}")
async def get_order(order_id: UUID, mediator: MediatorDep) -> OrderSummary:
    """From the read model, which follows after a moment."""
    return await mediator.send(GetOrder(order_id=order_id))


@router.get("/{order_id}/history")
async def get_order_history(order_id: UUID, mediator: MediatorDep) -> tuple[HistoryEntry, ...]:
    """From the event store, where an order is from the moment that it was accepted."""
    return await mediator.send(GetOrderHistory(order_id=order_id))


@router.post("/{order_id}/payment", status_code=204)
async def pay_order(order_id: UUID, body: Payment, mediator: MediatorDep) -> None:
    await mediator.send(PayOrder(order_id=order_id, method=body.method))


@router.post("/{order_id}/cancellation", status_code=204)
async def cancel_order(order_id: UUID, body: Cancellation, mediator: MediatorDep) -> None:
    await mediator.send(CancelOrder(order_id=order_id, reason=body.reason))
