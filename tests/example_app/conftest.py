"""The example application in a test's own folder, called as its clients call it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cqrs_fastapi import CQRS, Settings
from example_app.app import make_app, make_cqrs

ADDRESS = {"recipient": "Ada", "street": "Long Street 1", "city": "Hamburg", "country": "DE"}
_PATIENCE = 20.0


@dataclass(frozen=True)
class Shop:
    """A running shop, with shipping in its process. `shipping_url` is shipping's own database."""

    client: TestClient
    cqrs: CQRS
    shipping_url: str

    def product(self, sku: str = "MUG-1", *, cents: int = 990, stock: int = 10) -> str:
        body = {"sku": sku, "title": f"The {sku}", "price": {"cents": cents}, "stock": stock}
        return str(self._made("/products", body)["product_id"])

    def customer(self) -> str:
        body = {"name": "Ada", "email": "ada@example.com", "address": ADDRESS}
        return str(self._made("/customers", body)["customer_id"])

    def order(self, product_id: str, quantity: int = 1) -> str:
        items = [{"product_id": product_id, "quantity": quantity}]
        return str(self._made("/orders", {"customer_id": self.customer(), "items": items})["order_id"])

    def available(self, product_id: str) -> int:
        return int(self.client.get(f"/products/{product_id}").json()["available"])

    def events(self, order_id: str) -> list[str]:
        return [entry["event"] for entry in self.client.get(f"/orders/{order_id}/history").json()]

    def overview(self, order_id: str, status: str) -> dict[str, Any]:
        """The order's row in the read model, as soon as it has this status."""
        row: dict[str, Any] = {}
        deadline = time.monotonic() + _PATIENCE
        while row.get("status") != status:
            assert time.monotonic() < deadline, f"the overview is still {row}"
            time.sleep(0.02)
            row = self.client.get(f"/orders/{order_id}").json()
        return row

    def _made(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.client.post(path, json=body)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shipping_url = f"sqlite+aiosqlite:///{tmp_path / 'shipping.db'}"
    shipping = Settings(service="shipping", database_url=shipping_url)
    cqrs = make_cqrs(Settings(database_url=f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"))
    with TestClient(make_app(cqrs, shipping=shipping)) as client:
        yield Shop(client, cqrs, shipping_url)
