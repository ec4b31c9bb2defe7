"""Three generations of the shop's events: what was stored long ago is read as what the shop knows today."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from cqrs_fastapi import Settings
from cqrs_fastapi.catalogue import lockfile
from cqrs_fastapi.cli.main import app as cli
from cqrs_fastapi.storage.database import Database
from example_app.app import cqrs
from example_app.domain.customer import Address, Customer, CustomerRegistered
from example_app.domain.money import Money
from example_app.domain.order import Order
from example_app.domain.order_events import OrderCancelled, OrderLine, OrderPlaced

HERE = Path(__file__).parent
LOCK = Path(lockfile.__file__).parents[2] / "example_app" / "schema.lock.json"
CORPUS: list[dict[str, Any]] = [json.loads(line) for line in (HERE / "corpus.jsonl").read_text().splitlines()]

ORDER, CUSTOMER, MUG, PEN = (UUID(f"{n * 8}-{n * 4}-4{n * 3}-8{n * 3}-{n * 12}") for n in "1234")
ADA = Address(recipient="Ada", street="Long Street 1", city="Hamburg", country="DE")


def read(one: dict[str, Any]) -> list[Any]:
    return cqrs.registry.read(one["type"], one["version"], json.dumps(one["data"]).encode())


def generation(number: int) -> list[Any]:
    return [event for one in CORPUS if one["generation"] == number for event in read(one)]


def placed(*lines: OrderLine, currency: str = "EUR") -> OrderPlaced:
    cents = sum(line.quantity * line.price.cents for line in lines)
    total = Money(cents, currency)
    return OrderPlaced(order_id=ORDER, customer_id=CUSTOMER, lines=lines, total=total, ship_to=ADA)


REGISTERED = CustomerRegistered(name="Ada", email="ada@example.com", address=ADA)
EXPIRED = OrderCancelled(order_id=ORDER, reason="not paid in time")


def test_every_generation_is_read_as_the_events_of_today() -> None:
    assert generation(1) == [REGISTERED, placed(OrderLine(MUG, 2, Money(990))), EXPIRED]
    assert generation(2) == [REGISTERED, placed(OrderLine(MUG, 2, Money(990)), OrderLine(PEN, 1, Money(20)))]
    assert generation(3) == [
        REGISTERED,
        placed(OrderLine(MUG, 2, Money(990, "USD")), currency="USD"),
        OrderCancelled(order_id=ORDER, reason="a mistake"),
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_aggregates_of_today_are_folded_from_it(number: int) -> None:
    order, customer = Order(ORDER), Customer(CUSTOMER)
    for event in generation(number):
        (customer if isinstance(event, CustomerRegistered) else order).replay([event], 1)
    assert (customer.address, order.ship_to) == (ADA, ADA)
    assert order.total.cents == {1: 1980, 2: 2000, 3: 1980}[number]
    assert order.status == {1: "cancelled", 2: "placed", 3: "cancelled"}[number]


def test_what_is_locked_of_events_that_have_changed_is_in_the_corpus() -> None:
    """Whoever locks a new version of one adds a line to the corpus."""
    locked = lockfile.read(LOCK)
    assert locked is not None
    versions: dict[str, set[int]] = defaultdict(set)
    for one in CORPUS:
        versions[one["type"]].add(one["version"])
    for name in ("order.placed", "order.expired", "customer.registered", "CustomerSignedUp"):
        assert versions[name] == set(locked.events[name].versions)


def test_the_lockfile_of_the_shop_agrees_with_its_code() -> None:
    result = CliRunner().invoke(cli, ["schema", "check", "app:cqrs", "--file", str(LOCK)])
    assert (result.exit_code, result.stdout.endswith("events can be read\n")) == (0, True), result.output


def test_a_store_with_all_of_it_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"
    asyncio.run(_store(url))
    # The application is imported from its file, so that its settings are those of this test.
    monkeypatch.setenv("CQRS_DATABASE_URL", url)
    (tmp_path / "old_shop.py").write_text("from example_app.app import make_cqrs\ncqrs = make_cqrs()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = CliRunner().invoke(cli, ["schema", "verify", "old_shop:cqrs"])
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, f"{len(CORPUS)} events can be read")


async def _store(url: str) -> None:
    rows = [
        {
            "message_id": uuid4(),
            "stream": f"old-{ORDER}",
            "version": number,
            "category": "old",
            "type": one["type"],
            "schema_version": one["version"],
            "data": json.dumps(one["data"]),
            "meta": "{}",
            "recorded_at": datetime.now(UTC),
        }
        for number, one in enumerate(CORPUS, start=1)
    ]
    database = Database(Settings(database_url=url))
    await database.open()
    await database.write(lambda connection: connection.execute(insert(database.tables.events), rows))
    await database.close()
