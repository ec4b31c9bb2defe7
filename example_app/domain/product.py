"""Products: what is sold, and for how much. How many there are is the business of `stock`."""

from __future__ import annotations

from uuid import UUID, uuid5

from cqrs_fastapi import RootEntity, Tracked
from example_app.domain.money import Money

_SKUS = UUID("6f1c0c1e-7a53-4b43-9d0c-5d1f6a3f2b10")


def product_id_of(sku: str) -> UUID:
    """A SKU has one product: its identifier follows from it, so that the stream itself keeps the SKU unique."""
    return uuid5(_SKUS, sku)


class Product(RootEntity, category="product"):
    """There is nothing to decide about it, so its fields are simply set, and record what was done to them.

    Orders that were placed keep the price they were placed with.
    """

    sku: Tracked[str]
    title: Tracked[str]
    price: Tracked[Money]
