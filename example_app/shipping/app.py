"""Shipping as an application: `uvicorn example_app.shipping.app:app`, where it is a process of its own."""

from __future__ import annotations

from uuid import UUID

from dependency_injector import providers
from fastapi import FastAPI

from cqrs_fastapi import CQRS, CqrsContainer, MediatorDep, Settings
from cqrs_fastapi.brokers.broker import Broker
from example_app.shipping import handlers
from example_app.shipping.contracts import IGNORED
from example_app.shipping.handlers import GetShipment, ShipmentDetails
from example_app.shipping.settings import shipping_settings


def make_cqrs(*, settings: Settings | None = None, broker: Broker | None = None) -> CQRS:
    """Shipping on a broker and on settings of its own, unless they are given."""
    container = CqrsContainer()
    # Read when they are first needed, and by everything that the container makes of them.
    container.override_providers(settings=providers.Singleton(shipping_settings))
    made = CQRS(
        requests=handlers.requests,
        events=handlers.events,
        container=container,
        settings=settings,
        broker=broker,
    )
    made.register(*IGNORED)
    return made


def make_app(installed: CQRS) -> FastAPI:
    made = FastAPI(title="Shipping")
    installed.install(made)

    @made.get("/shipments/{order_id}")
    async def get_shipment(order_id: UUID, mediator: MediatorDep) -> ShipmentDetails:
        return await mediator.send(GetShipment(order_id=order_id))

    return made


cqrs = make_cqrs()
app = make_app(cqrs)
