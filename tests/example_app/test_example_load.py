"""The load command against a shop in a process of its own, which may be killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

from example_app.entrypoints.load.expectations import (
    Stored,
    has_ended,
    wrong_in_overview,
    wrong_in_store,
    wrong_on_topic,
)
from example_app.entrypoints.load.journal import Journal
from example_app.entrypoints.load.plan import make_plan

ROOT = Path(__file__).parents[2]
UNKNOWN_ORDER = "00000000-0000-7000-8000-000000000000"


class ShopProcess:
    """A shop served by uvicorn, with its databases in `folder`. It may be started again after it was killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CQRS_", "SHIPPING_"))},
            "CQRS_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'shop.db'}",
            "SHIPPING_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'shipping.db'}",
        }
        self._output = (folder / "shop.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = (sys.executable, "-m", "uvicorn", "app:app", "--port", str(self.port), "--no-access-log")
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=self._output, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, "the shop ended while it started"
            assert time.monotonic() < deadline, "the shop did not start in a minute"
            time.sleep(0.1)

    def end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(how)
        return process.wait(timeout=60)

    def close(self) -> None:
        self.end(signal.SIGKILL)
        self._output.close()

    def load(self, *options: str) -> subprocess.Popen[str]:
        command = (sys.executable, "-m", "example_app.entrypoints.load", "--url", self.url, *options)
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/live", timeout=1):  # noqa: S310  # our own
                return True
        except (URLError, OSError):
            return False


@pytest.fixture
def shop_process(tmp_path: Path) -> Iterator[ShopProcess]:
    shop = ShopProcess(tmp_path)
    try:
        shop.start()
        yield shop
    finally:
        shop.close()


def outcome(load: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = load.communicate(timeout=150)
    return load.returncode, output


def test_every_order_of_a_run_is_found_again_and_an_alembic_upgrade_of_its_file_passes(
    shop_process: ShopProcess,
) -> None:
    status, output = outcome(shop_process.load("--orders", "40", "--timeout", "90"))
    assert (status, output.splitlines()[-1]) == (0, "OK"), output
    assert "catalogue: 200 products, 100 customers" in output
    assert "acknowledged: 40 placed" in output
    assert shop_process.end(signal.SIGTERM) in {0, -signal.SIGTERM}
    upgrade = (sys.executable, "-m", "alembic", "upgrade", "head")
    done = subprocess.run(upgrade, cwd=ROOT, env=shop_process.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_killed_shop_has_acknowledged_is_there_when_it_is_started_again(
    shop_process: ShopProcess, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    load = shop_process.load("--orders", "400", "--timeout", "90", "--journal", str(journal))
    deadline = time.monotonic() + 60
    while not journal.exists() or len(journal.read_text().splitlines()) < 30:
        assert time.monotonic() < deadline, "nothing was acknowledged in a minute"
        time.sleep(0.05)
    shop_process.end(signal.SIGKILL)
    load.kill()
    load.communicate()
    shop_process.start()
    status, output = outcome(shop_process.load("--check-only", "--journal", str(journal), "--timeout", "90"))
    assert (status, output.splitlines()[-1]) == (0, "OK"), output


def test_an_order_that_is_in_the_journal_and_not_in_the_shop_is_named(
    shop_process: ShopProcess, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    journal.write_text(json.dumps({"order_id": UNKNOWN_ORDER, "event": "order.placed"}) + "\n")
    status, output = outcome(shop_process.load("--check-only", "--journal", str(journal), "--timeout", "1"))
    assert status == 1
    assert f"order {UNKNOWN_ORDER}: it is not in the event store" in output
    assert "OK" not in output.splitlines()


def test_a_shop_that_does_not_answer_is_a_failure_in_one_sentence(tmp_path: Path) -> None:
    shop = ShopProcess(tmp_path)
    status, output = outcome(shop.load("--orders", "1"))
    shop.close()
    assert status == 1
    assert output.startswith(f"FAILED: {shop.url} does not answer")


def test_the_same_seed_plans_the_same_orders_and_another_seed_others() -> None:
    assert make_plan(1, 50) == make_plan(1, 50)
    assert make_plan(1, 50).orders != make_plan(2, 50).orders


def test_the_popular_products_are_ordered_most_and_everything_planned_is_in_stock() -> None:
    plan = make_plan(1, 1000)
    ordered = [sku for order in plan.orders for sku, _ in order.items]
    assert ordered.count(plan.products[0].sku) > 20 * ordered.count(plan.products[150].sku)
    wanted = {product.sku: 0 for product in plan.products}
    for order in plan.orders:
        for sku, quantity in order.items:
            wanted[sku] += quantity
    assert all(product.stock >= wanted[product.sku] for product in plan.products)
    assert {order.fate for order in plan.orders} == {"paid", "cancelled", "left"}


def test_a_line_of_the_journal_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("w") as file:
        Journal(file=file).note("a", "order.placed")
        file.write('{"order_id": "b", "ev')
    journal = Journal()
    journal.read(path)
    assert dict(journal.acknowledged) == {"a": ["order.placed"]}


def history(*events: str) -> list[dict[str, object]]:
    return [
        {"version": version, "event": event, "message_id": f"m{version}"}
        for version, event in enumerate(events, start=1)
    ]


@pytest.mark.parametrize(
    ("acknowledged", "events", "sentence"),
    [
        (["order.placed"], ["order.placed"], None),
        (["order.placed"], ["order.placed", "order.paid", "order.shipped"], None),
        (["order.placed", "order.cancelled"], ["order.placed", "order.cancelled"], None),
        (["order.placed", "order.paid"], ["order.placed"], "order.paid was acknowledged and is not in"),
        (["order.placed"], ["order.placed", "order.paid"], "it is paid and not shipped"),
        (["order.placed"], ["order.placed", "order.paid", "order.shipped", "order.shipped"], "its stream has"),
        (["order.placed"], ["order.placed", "order.shipped"], "its stream has"),
        (["order.placed"], ["order.placed", "order.cancelled", "order.paid"], "its stream has"),
    ],
)
def test_a_stream_is_right_only_as_a_whole_life_of_an_order(
    acknowledged: list[str], events: list[str], sentence: str | None
) -> None:
    found = wrong_in_store(acknowledged, history(*events))
    assert found is None if sentence is None else sentence in (found or "")


def test_a_gap_in_the_versions_of_a_stream_is_found() -> None:
    gap = [{"version": 2, "event": "order.placed", "message_id": "m"}]
    assert wrong_in_store(["order.placed"], gap) == "its stream has the versions [2]"


@pytest.mark.parametrize(
    ("acknowledged", "status", "ended"),
    [
        (["order.placed"], "placed", True),
        (["order.placed", "order.paid"], "placed", False),
        (["order.placed", "order.cancelled"], "placed", False),
        (["order.placed"], "paid", False),
        (["order.placed"], "shipped", True),
        (["order.placed"], "cancelled", True),
        (["order.placed"], None, False),
    ],
)
def test_an_order_that_is_still_on_its_way_is_waited_for(
    acknowledged: list[str], status: str | None, *, ended: bool
) -> None:
    assert has_ended(acknowledged, status) is ended


SHIPPED = Stored(("order.placed", "order.paid", "order.shipped"), ("m1", "m2", "m3"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"status": "paid"}, "shipped in the event store and paid in the read model"),
        ({"changes": 4}, "has 3 events, and the read model has taken in 4"),
        ({"tracking": None}, "its tracking number is None"),
    ],
)
def test_an_overview_that_differs_from_the_stream_is_found(change: dict[str, object], sentence: str | None) -> None:
    found = wrong_in_overview(SHIPPED, {"status": "shipped", "changes": 3, "tracking": "SH1", **change})
    assert found is None if sentence is None else sentence in (found or "")


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        (["m1", "m2", "m3"], None),
        (["m1", "m2", "m1", "m2", "m3"], None),
        (["m1", "m3"], "1 of its 3 messages are not on the topic"),
        (["m1", "m3", "m2"], "out of order"),
        (["m1", "m2", "m3", "m4"], "not in the event store"),
    ],
)
def test_messages_that_are_lost_mixed_up_or_from_nowhere_are_found(messages: list[str], sentence: str | None) -> None:
    found = wrong_on_topic(SHIPPED, messages)
    assert found is None if sentence is None else sentence in (found or "")
