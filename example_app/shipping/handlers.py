"""What shipping does, and what it can be asked."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from cqrs_fastapi import EventMap, NotFoundError, Query, Repository, RequestMap
from example_app.shipping.contracts import Destination, OrderPaid
from example_app.shipping.shipment import Shipment

requests = RequestMap()
events = EventMap()


class ShipmentDetails(BaseModel):
    """An answer, frozen."""

    model_config = ConfigDict(frozen=True)

    order_id: UUID
    tracking: str
    pieces: int
    destination: Destination


class GetShipment(Query[ShipmentDetails]):
    order_id: UUID


@events.on(OrderPaid)
async def dispatch_paid_order(event: OrderPaid, shipments: Repository[Shipment]) -> None:
    """The event of the answer is committed with the note that this one was handled, and goes out by the broker."""
    shipment = await shipments.get_or_new(event.order_id)
    shipment.dispatch(event.lines, event.ship_to)


@requests.handles(GetShipment)
async def get_shipment(query: GetShipment, shipments: Repository[Shipment]) -> ShipmentDetails:
    shipment = await shipments.get(query.order_id)
    if shipment.tracking is None or shipment.destination is None:
        raise NotFoundError(kind="Shipment", identifier=str(query.order_id))
    return ShipmentDetails(
        order_id=shipment.id, tracking=shipment.tracking, pieces=shipment.pieces, destination=shipment.destination
    )
