"""What the application needs of the world. The adapters implement it; tests replace it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from example_app.application.views import OrderSummary, OverviewStatus, ProductSummary
from example_app.domain.money import Money


class PaymentGateway(Protocol):
    """The bank. Both calls are keyed by the order: repeating one, with the same order, changes nothing."""

    async def authorize(self, order_id: UUID, amount: Money, method: str) -> str:
        """Reserve the money and return the bank's reference; one that is not captured lapses by itself.

        Raises PaymentDeclinedError.
        """
        ...

    async def capture(self, order_id: UUID, authorization: str) -> None:
        """Take the money that was reserved."""
        ...


class Catalogue(Protocol):
    """The list of products, written in the transaction that changes them."""

    async def add(self, product: ProductSummary) -> None: ...

    async def change_price(self, product_id: UUID, price: Money) -> None: ...

    async def page(self, *, after: str | None, limit: int) -> Sequence[ProductSummary]:
        """By SKU, those above `after`."""
        ...


class OrderOverviews(Protocol):
    """The read model of orders. It follows the events after a moment."""

    async def find(self, order_id: UUID) -> OrderSummary | None: ...

    async def page(self, *, after: UUID | None, limit: int, status: OverviewStatus | None) -> Sequence[OrderSummary]:
        """By identifier, those above `after`."""
        ...

    async def unpaid_since(self, moment: datetime, *, limit: int) -> Sequence[UUID]:
        """Orders that were placed before `moment` and have not been paid, the oldest first."""
        ...


class AuditTrail(Protocol):
    """Notes on what a message did, written down once it is committed and not at all if it fails."""

    def note(self, sentence: str) -> None: ...
