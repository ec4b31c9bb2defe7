"""Bodies that are neither commands nor views."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from example_app.application.catalogue import Quantity
from example_app.application.orders import Reason
from example_app.domain.customer import Address
from example_app.domain.money import Money


class Body(BaseModel):
    """What a client sends beside the identifier in the path. Unknown fields are refused, as commands refuse them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NewPrice(Body):
    price: Money


class Delivery(Body):
    quantity: Quantity


class NewAddress(Body):
    address: Address


class Payment(Body):
    method: Annotated[str, Field(pattern=r"^[a-z-]{1,40}$")] = "card"


class Cancellation(Body):
    reason: Reason = "the customer changed their mind"


class ProductMade(BaseModel):
    product_id: UUID


class StockLevel(BaseModel):
    available: int


class CustomerMade(BaseModel):
    customer_id: UUID


class OrderMade(BaseModel):
    order_id: UUID
