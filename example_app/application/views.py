"""What queries answer with."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from example_app.domain.customer import Address
from example_app.domain.money import Money

OverviewStatus = Literal["placed", "paid", "shipped", "cancelled"]


class View(BaseModel):
    """An answer, frozen."""

    model_config = ConfigDict(frozen=True)


class ProductSummary(View):
    product_id: UUID
    sku: str
    title: str
    price: Money


class ProductDetails(ProductSummary):
    available: int


class ProductPage(View):
    """`next` is what to give as `after` for the page behind this one; None on the last."""

    products: tuple[ProductSummary, ...]
    next: str | None


class CustomerDetails(View):
    customer_id: UUID
    name: str
    email: str
    address: Address


class OrderSummary(View):
    """A row of the read model. `changes` is how many events it is made of."""

    order_id: UUID
    customer_id: UUID
    status: OverviewStatus
    total: Money
    pieces: int
    placed_at: datetime
    changed_at: datetime
    tracking: str | None
    changes: int


class OrderPage(View):
    """Ordered by identifier, which is the order of their making. `next` as in ProductPage."""

    orders: tuple[OrderSummary, ...]
    next: UUID | None


class HistoryEntry(View):
    """An event of an order's stream."""

    version: int
    event: str
    message_id: UUID
    recorded_at: datetime
