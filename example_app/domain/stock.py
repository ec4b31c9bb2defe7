"""The stock of one product: its own aggregate, so that reserving never collides with a change of the price."""

from __future__ import annotations

from uuid import UUID

from cqrs_fastapi import Aggregate, Event, applies
from example_app.domain.refusals import OutOfStockError


class StockReceived(Event, name="stock.received"):
    quantity: int


class StockReserved(Event, name="stock.reserved"):
    order_id: UUID
    quantity: int


class StockReleased(Event, name="stock.released"):
    order_id: UUID
    quantity: int


class Stock(Aggregate, category="stock"):
    """Its identifier is the product's. What is reserved is no longer available; shipping changes nothing here."""

    available: int = 0

    def receive(self, quantity: int) -> None:
        self.record(StockReceived(quantity=quantity))

    def reserve(self, order_id: UUID, quantity: int) -> None:
        """Raises OutOfStockError if less is available."""
        if quantity > self.available:
            raise OutOfStockError(self.id, wanted=quantity, available=self.available)
        self.record(StockReserved(order_id=order_id, quantity=quantity))

    def release(self, order_id: UUID, quantity: int) -> None:
        self.record(StockReleased(order_id=order_id, quantity=quantity))

    @applies
    def on_received(self, event: StockReceived) -> None:
        self.available += event.quantity

    @applies
    def on_reserved(self, event: StockReserved) -> None:
        self.available -= event.quantity

    @applies
    def on_released(self, event: StockReleased) -> None:
        self.available += event.quantity
