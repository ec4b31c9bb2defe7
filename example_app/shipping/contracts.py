"""The shop's events as shipping reads them: the shop's stored names and versions, and only the fields of interest."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from cqrs_fastapi import Event, NotificationEvent

_ORDERS: Final = "shop.orders"


class Destination(BaseModel):
    """Where a parcel goes. More than this may come; it is ignored."""

    model_config = ConfigDict(frozen=True)

    recipient: str
    street: str
    city: str
    country: str


class Goods(BaseModel):
    """What is in a parcel."""

    model_config = ConfigDict(frozen=True)

    product_id: UUID
    quantity: int


class OrderPaid(Event, name="order.paid", topic=_ORDERS):
    order_id: UUID
    lines: tuple[Goods, ...]
    ship_to: Destination


# What else is on the topic means nothing here. It must be known all the same: an unknown message becomes a dead letter.
class OrderPlaced(NotificationEvent, name="order.placed", version=3, topic=_ORDERS):
    order_id: UUID


class OrderCancelled(NotificationEvent, name="order.cancelled", topic=_ORDERS):
    order_id: UUID


class OrderShipped(NotificationEvent, name="order.shipped", topic=_ORDERS):
    order_id: UUID


IGNORED: Final[tuple[type[Event], ...]] = (OrderPlaced, OrderCancelled, OrderShipped)
