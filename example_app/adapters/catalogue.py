"""The list of products."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from example_app.adapters.tables import products
from example_app.application.views import ProductSummary
from example_app.domain.money import Money


class SqlCatalogue:
    """Writes with the session of the unit of work, so the list changes with the product; implements Catalogue."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, product: ProductSummary) -> None:
        row = {
            "product_id": product.product_id,
            "sku": product.sku,
            "title": product.title,
            "price_cents": product.price.cents,
            "currency": product.price.currency,
        }
        await self._session.execute(insert(products).values(row))

    async def change_price(self, product_id: UUID, price: Money) -> None:
        statement = update(products).where(products.c.product_id == product_id)
        await self._session.execute(statement.values(price_cents=price.cents, currency=price.currency))

    async def page(self, *, after: str | None, limit: int) -> Sequence[ProductSummary]:
        query = select(products).order_by(products.c.sku).limit(limit)
        if after is not None:
            query = query.where(products.c.sku > after)
        return [
            ProductSummary(
                product_id=row.product_id, sku=row.sku, title=row.title, price=Money(row.price_cents, row.currency)
            )
            for row in await self._session.execute(query)
        ]
