"""The shop and shipping together, on SQLite and the broker in memory, called by HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, select

from cqrs_fastapi import CQRS, ConfigurationError, Settings
from cqrs_fastapi.settings import WorkerName
from cqrs_fastapi.storage.database import Database
from example_app.adapters import schema
from example_app.adapters.order_overview import SqlOrderOverviews
from example_app.app import app, make_app, make_cqrs
from example_app.application.orders import ExpireOrder
from example_app.application.ports import PaymentGateway
from example_app.entrypoints.announcement import announcement, base_url
from example_app.shipping.app import make_cqrs as make_shipping
from example_app.shipping.settings import shipping_settings
from tests.example_app.conftest import Shop

T = TypeVar("T")


def test_a_paid_order_is_shipped_by_shipping_and_the_overview_says_so(shop: Shop) -> None:
    order_id = shop.order(shop.product(cents=990), 2)
    assert shop.client.post(f"/orders/{order_id}/payment", json={}).status_code == 204
    row = shop.overview(order_id, "shipped")
    assert (row["total"], row["pieces"], row["changes"]) == ({"cents": 1980, "currency": "EUR"}, 2, 3)
    assert shop.events(order_id) == ["order.placed", "order.paid", "order.shipped"]
    shipment = shop.client.get(f"/shipping/shipments/{order_id}").json()
    assert (shipment["tracking"], shipment["pieces"]) == (row["tracking"], 2)


def test_shipping_keeps_its_events_in_a_database_of_its_own(shop: Shop) -> None:
    order_id = shop.order(shop.product())
    shop.client.post(f"/orders/{order_id}/payment", json={})
    shop.overview(order_id, "shipped")
    assert categories(shop.shipping_url) == {"shipment"}
    assert categories(shop.cqrs.settings.database_url) == {"product", "stock", "customer", "order"}


def test_no_message_becomes_a_dead_letter(shop: Shop) -> None:
    product_id = shop.product()
    paid, cancelled = shop.order(product_id), shop.order(product_id)
    shop.client.post(f"/orders/{paid}/payment", json={})
    shop.client.post(f"/orders/{cancelled}/cancellation", json={})
    shop.overview(paid, "shipped")
    shop.overview(cancelled, "cancelled")
    assert dead_letters(shop.cqrs.settings.database_url) == dead_letters(shop.shipping_url) == 0


def test_a_cancelled_order_gives_its_stock_back(shop: Shop) -> None:
    product_id = shop.product(stock=3)
    order_id = shop.order(product_id, 2)
    assert shop.available(product_id) == 1
    assert shop.client.post(f"/orders/{order_id}/cancellation", json={"reason": "a mistake"}).status_code == 204
    assert shop.available(product_id) == 3
    assert shop.overview(order_id, "cancelled")["changes"] == 2


def test_more_than_is_in_stock_is_refused_and_nothing_is_reserved(shop: Shop) -> None:
    plenty, scarce = shop.product("MUG-1", stock=5), shop.product("MUG-2", stock=1)
    items = [{"product_id": plenty, "quantity": 1}, {"product_id": scarce, "quantity": 2}]
    refused = shop.client.post("/orders", json={"customer_id": shop.customer(), "items": items})
    assert (refused.status_code, refused.json()["code"]) == (409, "shop.out_of_stock")
    assert (shop.available(plenty), shop.available(scarce)) == (5, 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"items": []}, "body.items"),
        ({"customer_id": "nobody"}, "body.customer_id"),
        ({"coupon": "FREE"}, "body.coupon"),
    ],
)
def test_a_wrong_body_is_answered_with_what_is_wrong_in_it(shop: Shop, change: dict[str, object], field: str) -> None:
    body = {"customer_id": str(uuid4()), "items": [{"product_id": str(uuid4()), "quantity": 1}], **change}
    answer = shop.client.post("/orders", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [problem["field"] for problem in answer.json()["errors"]] == [field]


def test_refusals_have_their_status_and_their_code(shop: Shop) -> None:
    product_id = shop.product()
    order_id = shop.order(product_id)
    declined = shop.client.post(f"/orders/{order_id}/payment", json={"method": "expired-card"})
    assert (declined.status_code, declined.json()["code"]) == (402, "shop.payment_declined")
    shop.client.post(f"/orders/{order_id}/cancellation", json={})
    late = shop.client.post(f"/orders/{order_id}/payment", json={})
    assert (late.status_code, late.json()["code"]) == (409, "shop.order_state")
    twice = {"sku": "MUG-1", "title": "Mug", "price": {"cents": 1}}
    assert shop.client.post("/products", json=twice).json()["code"] == "shop.product_exists"
    items = [{"product_id": product_id, "quantity": 51}]
    many = shop.client.post("/orders", json={"customer_id": shop.customer(), "items": items})
    assert (many.status_code, many.json()["code"]) == (422, "shop.order_refused")


@pytest.mark.parametrize("path", ["/orders/{}", "/orders/{}/history", "/products/{}", "/customers/{}"])
def test_what_does_not_exist_is_not_found(shop: Shop, path: str) -> None:
    assert shop.client.get(path.format(uuid4())).json()["code"] == "not_found"


def test_pages_of_orders_hold_each_order_once(shop: Shop) -> None:
    product_id = shop.product()
    made = [shop.order(product_id) for _ in range(5)]
    for order_id in made:
        shop.overview(order_id, "placed")
    found, after, pages = [], "", 0
    while after is not None:
        page = shop.client.get("/orders", params={"limit": 2, **({"after": after} if after else {})}).json()
        found += [row["order_id"] for row in page["orders"]]
        after, pages = page["next"], pages + 1
    assert (found, pages) == (sorted(made), 3)
    assert shop.client.get("/orders", params={"status": "paid"}).json() == {"orders": [], "next": None}


def test_the_list_of_products_has_what_was_just_added_and_its_new_price(shop: Shop) -> None:
    product_id = shop.product("MUG-1", cents=990)
    shop.client.put(f"/products/{product_id}/price", json={"price": {"cents": 890}})
    (listed,) = shop.client.get("/products").json()["products"]
    assert (listed["sku"], listed["price"]["cents"]) == ("MUG-1", 890)
    assert shop.client.post(f"/products/{product_id}/stock", json={"quantity": 5}).json() == {"available": 15}


def test_a_customer_who_moves_gets_the_next_order_at_the_new_address(shop: Shop) -> None:
    customer_id = shop.customer()
    address = {"recipient": "Ada", "street": "Short Street 2", "city": "Lyon", "country": "FR"}
    assert shop.client.put(f"/customers/{customer_id}/address", json={"address": address}).status_code == 204
    items = [{"product_id": shop.product(), "quantity": 1}]
    order_id = shop.client.post("/orders", json={"customer_id": customer_id, "items": items}).json()["order_id"]
    shop.client.post(f"/orders/{order_id}/payment", json={})
    shop.overview(order_id, "shipped")
    assert shop.client.get(f"/shipping/shipments/{order_id}").json()["destination"] == address


class UnreachableBank:
    """Takes no orders from anybody."""

    async def authorize(self, order_id: UUID, amount: object, method: str) -> str:
        raise ConnectionError("the bank is closed")

    async def capture(self, order_id: UUID, authorization: str) -> None:
        raise ConnectionError("the bank is closed")


def test_an_order_whose_payment_failed_stays_as_it_was(shop: Shop) -> None:
    order_id = shop.order(shop.product())
    with shop.cqrs.override(PaymentGateway).by(UnreachableBank()):
        failed = shop.client.post(f"/orders/{order_id}/payment", json={})
        assert (failed.status_code, failed.json()["code"]) == (500, "internal")
        assert shop.events(order_id) == ["order.placed"]
    assert shop.client.post(f"/orders/{order_id}/payment", json={}).status_code == 204


def test_expiring_an_order_that_was_paid_meanwhile_changes_nothing(shop: Shop) -> None:
    product_id = shop.product(stock=4)
    paid, unpaid = shop.order(product_id), shop.order(product_id)
    shop.client.post(f"/orders/{paid}/payment", json={})
    portal = shop.client.portal
    assert portal is not None
    for order_id in (paid, unpaid):
        portal.call(shop.cqrs.mediator.send, ExpireOrder(order_id=UUID(order_id)))
    assert "order.cancelled" not in shop.events(paid)
    assert shop.events(unpaid) == ["order.placed", "order.cancelled"]
    assert shop.available(product_id) == 3


def test_the_overview_knows_who_has_not_paid_since_a_moment(shop: Shop) -> None:
    order_id = shop.order(shop.product())
    shop.overview(order_id, "placed")

    async def unpaid(since: datetime) -> list[UUID]:
        session = shop.cqrs.database.session(read_only=True)
        async with session:
            return list(await SqlOrderOverviews(session).unpaid_since(since, limit=10))

    portal = shop.client.portal
    assert portal is not None
    now = datetime.now(UTC)
    assert portal.call(unpaid, now + timedelta(minutes=1)) == [UUID(order_id)]
    assert portal.call(unpaid, now - timedelta(hours=1)) == []


def test_a_shop_that_is_started_again_ships_what_was_paid_before(tmp_path: Path) -> None:
    def settings(service: str, *workers: WorkerName) -> Settings:
        url = f"sqlite+aiosqlite:///{tmp_path / service}.db"
        return Settings(service=service, database_url=url, run_in_app=workers)

    with running(make_cqrs(settings("app")), settings("shipping")) as shop:
        order_id = shop.order(shop.product())
        shop.client.post(f"/orders/{order_id}/payment", json={})
    again = make_cqrs(settings("app", "relay", "consumer"))
    with running(again, settings("shipping", "relay", "consumer")) as shop:
        assert shop.overview(order_id, "shipped")["changes"] == 3


def test_where_the_command_line_must_migrate_a_shop_without_tables_says_what_to_run(sqlite_url: str) -> None:
    async def look() -> None:
        database = Database(Settings(database_url=sqlite_url))
        await database.open()
        try:
            await database.read(schema.require_head)
        finally:
            await database.close()

    with pytest.raises(ConfigurationError, match="run: alembic upgrade head"):
        asyncio.run(look())


def test_importing_the_application_opens_nothing() -> None:
    assert not app.state.cqrs.is_open


def test_shipping_has_a_name_and_a_database_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CQRS_SERVICE", "shop")
    monkeypatch.setenv("CQRS_DATABASE_URL", "sqlite+aiosqlite:///./cqrs.db")
    monkeypatch.setenv("CQRS_BROKER_URL", "kafka://localhost:9092")
    found = shipping_settings()
    assert (found.service, found.broker_url) == ("shipping", "kafka://localhost:9092")
    assert found.database_url == "sqlite+aiosqlite:///./shipping.db"
    monkeypatch.setenv("SHIPPING_DATABASE_URL", "sqlite+aiosqlite:///./elsewhere.db")
    assert shipping_settings().database_url == "sqlite+aiosqlite:///./elsewhere.db"


def test_shipping_opens_the_database_of_its_own_settings_and_not_the_shops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CQRS_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    monkeypatch.setenv("SHIPPING_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'shipping.db'}")
    assert make_shipping().database.engine.url.database == str(tmp_path / "shipping.db")
    assert make_cqrs().database.engine.url.database == str(tmp_path / "shop.db")


def test_the_announcement_names_the_address_that_the_server_was_given() -> None:
    url = base_url(["app:app", "--host", "::", "--port", "9000", "--reload"])
    assert url == "http://127.0.0.1:9000"
    said = announcement(url, database="sqlite", broker="memory", shipping_runs_here=True)
    for address in ("/docs", "/orders", "/health/ready", "/shipping/docs"):
        assert url + address in said
    assert f"python -m example_app.entrypoints.load --url {url}" in said


def test_the_application_says_where_it_is_once_when_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        Settings(service=service, database_url=f"sqlite+aiosqlite:///{tmp_path / service}.db", run_in_app=())
        for service in ("app", "shipping")
    ]
    with running(make_cqrs(settings[0]), settings[1]) as shop:
        shop.client.get("/products")
    assert capsys.readouterr().out.count("The shop is open, with sqlite and memory.") == 1


@contextmanager
def running(cqrs: CQRS, shipping: Settings) -> Iterator[Shop]:
    with TestClient(make_app(cqrs, shipping=shipping)) as client:
        yield Shop(client, cqrs, shipping.database_url)


def categories(url: str) -> set[str]:
    database = Database(Settings(database_url=url))
    events = database.tables.events

    def read(connection: Connection) -> set[str]:
        return {stream.partition("-")[0] for stream in connection.execute(select(events.c.stream)).scalars()}

    return asyncio.run(ask(database, read))


async def ask(database: Database, work: Callable[[Connection], T]) -> T:
    await database.open()
    try:
        return await database.read(work)
    finally:
        await database.close()


def dead_letters(url: str) -> int:
    database = Database(Settings(database_url=url))
    letters = database.tables.dead_letters
    return asyncio.run(ask(database, lambda connection: len(connection.execute(select(letters)).all())))
