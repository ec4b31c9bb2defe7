"""Products: what is sold, and for how much. How many there are is the business of `stock`."""

from __future__ import annotations

from uuid import UUID, uuid5

from cqrs_fastapi import Aggregate, Event, applies
from example_app.domain.money import Money

_SKUS = UUID("6f1c0c1e-7a53-4b43-9d0c-5d1f6a3f2b10")


def product_id_of(sku: str) -> UUID:
    """A SKU has one product: its identifier follows from it, so that the stream itself keeps the SKU unique."""
    return uuid5(_SKUS, sku)


class ProductAdded(Event, name="product.added"):
    product_id: UUID
    sku: str
    title: str
    price: Money


class ProductPriceChanged(Event, name="product.price_changed"):
    product_id: UUID
    price: Money


class Product(Aggregate, category="product"):
    sku: str = ""
    title: str = ""
    price: Money = Money(0)

    def add(self, sku: str, title: str, price: Money) -> None:
        self.record(ProductAdded(product_id=self.id, sku=sku, title=title, price=price))

    def change_price(self, price: Money) -> None:
        """Orders that were placed keep the price they were placed with."""
        if price != self.price:
            self.record(ProductPriceChanged(product_id=self.id, price=price))

    @applies
    def on_added(self, event: ProductAdded) -> None:
        self.sku, self.title, self.price = event.sku, event.title, event.price

    @applies
    def on_price_changed(self, event: ProductPriceChanged) -> None:
        self.price = event.price
