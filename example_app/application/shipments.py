"""What the shop hears from shipping, and does about it."""

from __future__ import annotations

from uuid import UUID

from cqrs_fastapi import Event, EventMap, RequestMediator
from example_app.application.orders import MarkShipped

events = EventMap()


class ShipmentDispatched(Event, name="shipment.dispatched", topic="shipping.shipments"):
    """The shop's own reading of shipping's event: the fields it needs, under the stored name that both know."""

    order_id: UUID
    tracking: str


@events.on(ShipmentDispatched)
async def note_dispatch(event: ShipmentDispatched, mediator: RequestMediator) -> None:
    """The injected mediator joins this unit of work: the command, and that the event was handled, commit together."""
    await mediator.send(MarkShipped(order_id=event.order_id, tracking=event.tracking))
