"""The shop, put together: `uvicorn example_app.app:app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI

from cqrs_fastapi import CQRS, EventMap, RequestMap, Settings
from example_app.adapters.container import Container
from example_app.adapters.order_overview import OrderOverview
from example_app.application import catalogue, customers, order_queries, orders, shipments
from example_app.application.expiry import expire_unpaid_orders
from example_app.domain.former_events import UPCASTERS
from example_app.domain.refusals import OrderStateError, OutOfStockError, PaymentDeclinedError, ProductExistsError
from example_app.entrypoints import customers as customer_routes
from example_app.entrypoints import orders as order_routes
from example_app.entrypoints import products as product_routes
from example_app.entrypoints.announcement import announce
from example_app.entrypoints.shipping_alongside import shipping_alongside

# Every other refusal is answered with 422.
STATUSES = {ProductExistsError: 409, OutOfStockError: 409, OrderStateError: 409, PaymentDeclinedError: 402}


def make_cqrs(settings: Settings | None = None) -> CQRS:
    """All handlers, the read model and the job, on `settings` or, later, on those of the environment."""
    requests, events = RequestMap(), EventMap()
    for module in (catalogue, customers, orders, order_queries):
        requests.include(module.requests)
    for source in (catalogue, orders, shipments):
        events.include(source.events)
    made = CQRS(requests=requests, events=events, container=Container(), settings=settings)
    made.projections.include(OrderOverview)
    made.upcasters.include(*UPCASTERS)
    made.job(every=timedelta(minutes=1))(expire_unpaid_orders)
    return made


def make_app(installed: CQRS, *, shipping: Settings | None = None) -> FastAPI:
    """The web face. `shipping` are the settings of the service next door, where it runs in this process."""

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[None]:
        async with shipping_alongside(started, installed, shipping) as runs_here:
            announce(database=installed.database.dialect, broker=installed.broker.name, shipping_runs_here=runs_here)
            yield

    made = FastAPI(title="Shop", lifespan=lifespan)
    for routes in (product_routes, customer_routes, order_routes):
        made.include_router(routes.router)
    installed.install(made, statuses=STATUSES)
    return made


cqrs = make_cqrs()
app = make_app(cqrs)
