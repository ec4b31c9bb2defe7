"""Commands on orders, and their handlers."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from cqrs_fastapi import (
    Command,
    EventHandler,
    EventMap,
    NotFoundError,
    Repository,
    RequestHandler,
    RequestMap,
    RootRepository,
)
from cqrs_fastapi.identity import IdFactory
from example_app.application.ports import AuditTrail, PaymentGateway
from example_app.domain.customer import Address, Customer
from example_app.domain.order import Order, OrderPolicy
from example_app.domain.order_events import OrderLine, OrderPaid
from example_app.domain.product import Product
from example_app.domain.stock import Stock

requests = RequestMap()
events = EventMap()

Reason = Annotated[str, Field(min_length=1, max_length=200)]


class Item(BaseModel):
    """What a customer wants of one product."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product_id: UUID
    quantity: Annotated[int, Field(ge=1)] = 1


class PlaceOrder(Command[UUID]):
    """Answered with the order's identifier."""

    customer_id: UUID
    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=100)]


class PayOrder(Command[None]):
    order_id: UUID
    method: Annotated[str, Field(pattern=r"^[a-z-]{1,40}$")] = "card"


class CancelOrder(Command[None]):
    order_id: UUID
    reason: Reason = "the customer changed their mind"


class ExpireOrder(Command[None]):
    """Cancel the order unless it has been paid meanwhile."""

    order_id: UUID


class MarkShipped(Command[None]):
    order_id: UUID
    tracking: str


@requests.handles(PlaceOrder)
class PlaceOrderHandler(RequestHandler[PlaceOrder, UUID]):
    """The order and the stock of all its products are one unit of work: an order exists only with its goods reserved.

    Of two orders for the last piece, the one that commits second is decided again, and then refused.
    """

    def __init__(
        self,
        *,
        orders: Repository[Order],
        customers: Repository[Customer],
        products: RootRepository[Product],
        stocks: Repository[Stock],
        policy: OrderPolicy,
        ids: IdFactory,
        audit: AuditTrail,
    ) -> None:
        self._orders, self._customers, self._products, self._stocks = orders, customers, products, stocks
        self._policy, self._ids, self._audit = policy, ids, audit

    async def handle(self, command: PlaceOrder) -> UUID:
        ship_to = await self._address_of(command.customer_id)
        lines = [await self._line(item) for item in command.items]
        self._policy.check(lines)
        order = Order(self._ids())
        for line in lines:
            stock = await self._stocks.get_or_new(line.product_id)
            stock.reserve(order.id, line.quantity)
        order.place(command.customer_id, lines, ship_to)
        self._orders.add(order)
        self._audit.note(f"order {order.id} placed by {command.customer_id}")
        return order.id

    async def _address_of(self, customer_id: UUID) -> Address:
        customer = await self._customers.get(customer_id)
        if customer.address is None:
            raise NotFoundError(kind="Customer", identifier=str(customer_id))
        return customer.address

    async def _line(self, item: Item) -> OrderLine:
        product = await self._products.get(item.product_id)
        return OrderLine(product.id, item.quantity, product.price)


@requests.handles(PayOrder)
async def pay_order(command: PayOrder, orders: Repository[Order], bank: PaymentGateway, audit: AuditTrail) -> None:
    """Only reserves the money, keyed by the order: a decision that is made again, or undone, costs nobody anything."""
    order = await orders.get(command.order_id)
    order.require_placed()
    authorization = await bank.authorize(order.id, order.total, command.method)
    order.pay(authorization)
    audit.note(f"order {order.id} paid by {command.method}")


@requests.handles(CancelOrder)
async def cancel_order(
    command: CancelOrder, orders: Repository[Order], stocks: Repository[Stock], audit: AuditTrail
) -> None:
    order = await orders.get(command.order_id)
    await _cancel(order, command.reason, stocks)
    audit.note(f"order {order.id} cancelled: {command.reason}")


@requests.handles(ExpireOrder)
async def expire_order(command: ExpireOrder, orders: Repository[Order], stocks: Repository[Stock]) -> None:
    order = await orders.get(command.order_id)
    if order.status == "placed":
        await _cancel(order, "it was not paid in time", stocks)


@requests.handles(MarkShipped)
async def mark_shipped(command: MarkShipped, orders: Repository[Order]) -> None:
    order = await orders.get(command.order_id)
    order.mark_shipped(command.tracking)


@events.on(OrderPaid)
class CapturePayment(EventHandler[OrderPaid]):
    """After the commit, at least once: money moves for orders that are certainly paid, and for no others."""

    def __init__(self, bank: PaymentGateway) -> None:
        self._bank = bank

    async def handle(self, event: OrderPaid) -> None:
        await self._bank.capture(event.order_id, event.authorization)


async def _cancel(order: Order, reason: str, stocks: Repository[Stock]) -> None:
    """The goods are available again from the moment the order is cancelled."""
    order.cancel(reason)
    for line in order.lines:
        stock = await stocks.get(line.product_id)
        stock.release(order.id, line.quantity)
