"""Carries out a plan by HTTP and keeps account of every answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from example_app.entrypoints.load.client import Client, NoAnswerError, Response
from example_app.entrypoints.load.journal import Journal
from example_app.entrypoints.load.plan import Plan, PlannedCustomer, PlannedOrder, PlannedProduct

_TRIES = 20
_PAUSE = 0.05
_PAUSE_WHILE_AWAY = 0.5


class SetupFailedError(Exception):
    """The shop did not take the catalogue or the customers, so there is nothing to order."""


@dataclass(slots=True)
class Driver:
    """`counts` holds what became of the requests: `refused` with their codes, `unknown`, and `tried again`."""

    client: Client
    journal: Journal
    counts: Counter[str] = field(default_factory=Counter)

    async def open_shop(self, plan: Plan) -> tuple[dict[str, str], list[str]]:
        """Add the products, or receive stock for those that are there, and register the customers.

        Returns the identifiers of products by SKU, and those of customers. Raises SetupFailedError.
        """
        known = await self._catalogue()
        products = await asyncio.gather(*(self._stock_up(product, known) for product in plan.products))
        customers = await asyncio.gather(*(self._register(customer) for customer in plan.customers))
        return dict(products), list(customers)

    async def order(self, plan: Plan, products: Mapping[str, str], customers: Sequence[str], workers: int) -> None:
        """Place, pay and cancel, many at once. What fails is counted; nothing is raised."""
        queue = iter(plan.orders)

        async def work() -> None:
            for order in queue:
                await self._carry_out(order, products, customers)

        await asyncio.gather(*(work() for _ in range(workers)))

    async def _carry_out(self, order: PlannedOrder, products: Mapping[str, str], customers: Sequence[str]) -> None:
        items = [{"product_id": products[sku], "quantity": quantity} for sku, quantity in order.items]
        placed = await self._send("/orders", {"customer_id": customers[order.customer], "items": items})
        if placed is None:
            return
        order_id = placed.body["order_id"]
        self.journal.note(order_id, "order.placed")
        if order.fate == "paid" and await self._send(f"/orders/{order_id}/payment", {}) is not None:
            self.journal.note(order_id, "order.paid")
        if order.fate == "cancelled" and await self._send(f"/orders/{order_id}/cancellation", {}) is not None:
            self.journal.note(order_id, "order.cancelled")

    async def _send(self, path: str, body: Mapping[str, object]) -> Response | None:
        """The answer if it was accepted. A request of which nothing was written is sent again; others never are."""
        for _ in range(_TRIES):
            try:
                response = await self.client.post(path, body)
            except NoAnswerError:
                self.counts["unknown"] += 1
                await asyncio.sleep(_PAUSE_WHILE_AWAY)
                return None
            if response.status < 300:  # noqa: PLR2004  # accepted
                return response
            if response.code not in {"concurrency", "unavailable", "overloaded"}:
                self.counts["unknown" if response.status >= 500 else f"refused: {response.code}"] += 1  # noqa: PLR2004
                return None
            self.counts["tried again"] += 1
            await asyncio.sleep(_PAUSE)
        self.counts["refused: too busy"] += 1
        return None

    async def _catalogue(self) -> dict[str, str]:
        known: dict[str, str] = {}
        after: str | None = ""
        while after is not None:
            page = (await self._accepted(self.client.get(f"/products?limit=500&after={quote(after)}"))).body
            known.update((product["sku"], product["product_id"]) for product in page["products"])
            after = page["next"]
        return known

    async def _stock_up(self, product: PlannedProduct, known: Mapping[str, str]) -> tuple[str, str]:
        if product.sku in known:
            path = f"/products/{known[product.sku]}/stock"
            await self._accepted(self.client.post(path, {"quantity": product.stock}))
            return product.sku, known[product.sku]
        price = {"cents": product.cents, "currency": "EUR"}
        body = {"sku": product.sku, "title": product.title, "price": price, "stock": product.stock}
        made = await self._accepted(self.client.post("/products", body))
        return product.sku, made.body["product_id"]

    async def _register(self, customer: PlannedCustomer) -> str:
        address = {
            "recipient": customer.name,
            "street": customer.street,
            "city": customer.city,
            "country": customer.country,
        }
        body = {"name": customer.name, "email": customer.email, "address": address}
        made = await self._accepted(self.client.post("/customers", body))
        return str(made.body["customer_id"])

    async def _accepted(self, request: Awaitable[Response]) -> Response:
        try:
            response = await request
        except NoAnswerError as error:
            raise SetupFailedError(f"{self.client.url} does not answer: {error}") from error
        if response.status >= 300:  # noqa: PLR2004  # refused
            raise SetupFailedError(f"{self.client.url} answered with {response.status}: {response.body}")
        return response
