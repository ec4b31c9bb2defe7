"""What was stored before, read as the events of today. Nothing here is ever taken away: the events are still there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from cqrs_fastapi import Upcast, upcasts

Data = dict[str, Any]
_PLACE: Final = ("street", "city", "country")
_CURRENCY: Final = "EUR"  # all there was before amounts had one


@upcasts("order.placed", version=1)
def with_several_lines(data: Data) -> Data:
    """An order had one product, and its address among its own fields."""
    return {
        "order_id": data["order_id"],
        "customer_id": data["customer_id"],
        "lines": [{name: data[name] for name in ("product_id", "quantity", "cents")}],
        "ship_to": {name: data[name] for name in ("recipient", *_PLACE)},
    }


@upcasts("order.placed", version=2)
def with_money(data: Data) -> Data:
    """Prices were plain cents, and the total was left to the reader."""
    total = sum(line["quantity"] * line["cents"] for line in data["lines"])
    return {**data, "lines": [_priced(line) for line in data["lines"]], "total": _money(total)}


@upcasts("order.expired", version=1, into=[("order.cancelled", 1)])
def as_a_cancellation(data: Data) -> Iterable[Upcast]:
    """An order that expires is cancelled like any other; reminders, which this also stood for, cancel nothing."""
    if data["final"]:
        yield Upcast("order.cancelled", 1, {"order_id": data["order_id"], "reason": "not paid in time"})


@upcasts("customer.registered", version=1)
def with_an_address(data: Data) -> Data:
    return {"name": data["name"], "email": data["email"], "address": {name: data[name] for name in _PLACE}}


@upcasts("customer.registered", version=2)
def with_a_recipient(data: Data) -> Data:
    """Parcels went to the customer."""
    return {**data, "address": {"recipient": data["name"], **data["address"]}}


UPCASTERS: Final[tuple[Callable[[Data], object], ...]] = (
    with_several_lines,
    with_money,
    as_a_cancellation,
    with_an_address,
    with_a_recipient,
)


def _priced(line: Data) -> Data:
    return {"product_id": line["product_id"], "quantity": line["quantity"], "price": _money(line["cents"])}


def _money(cents: int) -> Data:
    return {"cents": cents, "currency": _CURRENCY}
