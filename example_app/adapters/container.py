"""Which implementation stands for which port, and how long each lives."""

from __future__ import annotations

from dependency_injector import providers

from cqrs_fastapi import CqrsContainer, Provides
from example_app.adapters.audit import audit_trail
from example_app.adapters.catalogue import SqlCatalogue
from example_app.adapters.order_overview import SqlOrderOverviews
from example_app.adapters.payments import payment_gateway
from example_app.adapters.schema import shop_schema
from example_app.application.expiry import ExpiryPolicy
from example_app.application.ports import Catalogue, OrderOverviews
from example_app.domain.order import OrderPolicy


class Container(CqrsContainer):
    """Handlers ask by type and never see this class."""

    # Made for each handler that asks; the session that both leave open is that of the handler's unit of work.
    catalogue: Provides[Catalogue] = providers.Factory(SqlCatalogue)
    overviews: Provides[OrderOverviews] = providers.Factory(SqlOrderOverviews)

    # One for each message, closed when the message has been committed or has failed.
    audit = providers.Factory(audit_trail)

    # One for the life of the application.
    order_policy: Provides[OrderPolicy] = providers.Singleton(OrderPolicy)
    expiry_policy: Provides[ExpiryPolicy] = providers.Singleton(ExpiryPolicy)

    # Started with the application and closed after its last message, in the order that they stand here.
    schema = providers.Resource(shop_schema, CqrsContainer.database)
    bank = providers.Resource(payment_gateway)
