"""Shipments. One order is one shipment, so a shipment has its order's identifier."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from cqrs_fastapi import Aggregate, ECSTEvent, applies
from example_app.shipping.contracts import Destination, Goods


class ShipmentDispatched(ECSTEvent, name="shipment.dispatched", topic="shipping.shipments"):
    order_id: UUID
    tracking: str
    pieces: int
    destination: Destination


class Shipment(Aggregate, category="shipment"):
    tracking: str | None = None
    pieces: int = 0
    destination: Destination | None = None

    def dispatch(self, goods: Sequence[Goods], destination: Destination) -> None:
        """An order is sent once, however often that is asked."""
        if self.tracking is not None:
            return
        pieces = sum(one.quantity for one in goods)
        tracking = f"SH{self.id.hex[-12:].upper()}"
        self.record(ShipmentDispatched(order_id=self.id, tracking=tracking, pieces=pieces, destination=destination))

    @applies
    def on_dispatched(self, event: ShipmentDispatched) -> None:
        self.tracking, self.pieces, self.destination = event.tracking, event.pieces, event.destination
