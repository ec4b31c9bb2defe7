"""What happens to orders. These events are stored and published, on `shop.orders`; their key is the order's stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field

from cqrs_fastapi import ECSTEvent, NotificationEvent
from example_app.domain.customer import Address
from example_app.domain.money import Money

ORDERS: Final = "shop.orders"


@dataclass(frozen=True, slots=True)
class OrderLine:
    """A product in an order, with its price at that time."""

    product_id: UUID
    quantity: Annotated[int, Field(ge=1)]
    price: Money


class OrderPlaced(ECSTEvent, name="order.placed", version=3, topic=ORDERS):
    order_id: UUID
    customer_id: UUID
    lines: tuple[OrderLine, ...]
    total: Money
    ship_to: Address


class OrderPaid(ECSTEvent, name="order.paid", topic=ORDERS):
    """Carries all that is needed to send the goods, so that nobody has to ask the shop."""

    order_id: UUID
    amount: Money
    authorization: str
    lines: tuple[OrderLine, ...]
    ship_to: Address


class OrderCancelled(NotificationEvent, name="order.cancelled", topic=ORDERS):
    order_id: UUID
    reason: str


class OrderShipped(NotificationEvent, name="order.shipped", topic=ORDERS):
    order_id: UUID
    tracking: str
