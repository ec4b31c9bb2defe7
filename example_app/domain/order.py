"""Orders, from placed to shipped or cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal
from uuid import UUID

from cqrs_fastapi import Aggregate, applies
from example_app.domain.customer import Address
from example_app.domain.money import Money
from example_app.domain.order_events import OrderCancelled, OrderLine, OrderPaid, OrderPlaced, OrderShipped
from example_app.domain.refusals import OrderRefusedError, OrderStateError

Status = Literal["new", "placed", "paid", "shipped", "cancelled"]


@dataclass(frozen=True, slots=True)
class OrderPolicy:
    """What the shop accepts in one order."""

    max_lines: int = 20
    max_quantity: int = 50

    def check(self, lines: Sequence[OrderLine]) -> None:
        """Raises OrderRefusedError, with what to do instead."""
        if not lines:
            raise OrderRefusedError("an order has at least one line; say what is wanted, and how much of it")
        if len(lines) > self.max_lines:
            raise OrderRefusedError(f"an order has at most {self.max_lines} lines, not {len(lines)}; split it")
        if len({line.product_id for line in lines}) < len(lines):
            raise OrderRefusedError("a product is on two lines; put it on one, with the sum of both quantities")
        if len({line.price.currency for line in lines}) > 1:
            raise OrderRefusedError("an order has one currency; place one order for each")
        most = max(line.quantity for line in lines)
        if most > self.max_quantity:
            raise OrderRefusedError(f"a line has at most {self.max_quantity} pieces, not {most}; ask for an offer")


class Order(Aggregate, category="order"):
    status: Status = "new"
    lines: tuple[OrderLine, ...] = ()
    ship_to: Address | None = None
    total: Money = Money(0)

    def place(self, customer_id: UUID, lines: Sequence[OrderLine], ship_to: Address) -> None:
        total = reduce(add, (line.price * line.quantity for line in lines))
        self.record(
            OrderPlaced(order_id=self.id, customer_id=customer_id, lines=tuple(lines), total=total, ship_to=ship_to)
        )

    def require_placed(self) -> None:
        """Raises OrderStateError unless the order waits for its payment."""
        self._destination()

    def pay(self, authorization: str) -> None:
        """The money is reserved, and the goods may go. Raises OrderStateError unless the order waits for this."""
        ship_to = self._destination()
        self.record(
            OrderPaid(
                order_id=self.id, amount=self.total, authorization=authorization, lines=self.lines, ship_to=ship_to
            )
        )

    def cancel(self, reason: str) -> None:
        """Raises OrderStateError once it is paid."""
        self.require_placed()
        self.record(OrderCancelled(order_id=self.id, reason=reason))

    def mark_shipped(self, tracking: str) -> None:
        """Saying it again changes nothing; raises OrderStateError for an order that was never paid."""
        if self.status == "shipped":
            return
        if self.status != "paid":
            raise OrderStateError(self.id, status=self.status, wanted="paid")
        self.record(OrderShipped(order_id=self.id, tracking=tracking))

    def _destination(self) -> Address:
        """Of an order that waits for its payment; it has had an address from the start."""
        if self.status != "placed" or self.ship_to is None:
            raise OrderStateError(self.id, status=self.status, wanted="placed")
        return self.ship_to

    @applies
    def on_placed(self, event: OrderPlaced) -> None:
        self.status, self.lines, self.total, self.ship_to = "placed", event.lines, event.total, event.ship_to

    @applies
    def on_paid(self, _event: OrderPaid) -> None:
        self.status = "paid"

    @applies
    def on_cancelled(self, _event: OrderCancelled) -> None:
        self.status = "cancelled"

    @applies
    def on_shipped(self, _event: OrderShipped) -> None:
        self.status = "shipped"
