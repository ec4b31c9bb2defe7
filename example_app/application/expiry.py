"""Orders that nobody pays give their stock back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cqrs_fastapi import RequestMediator, Tick
from example_app.application.orders import ExpireOrder
from example_app.application.ports import OrderOverviews


@dataclass(frozen=True, slots=True)
class ExpiryPolicy:
    """How long an order waits for its payment, and how many are cancelled at one tick."""

    payment_window: timedelta = timedelta(hours=24)
    batch: int = 100


async def expire_unpaid_orders(
    tick: Tick, overviews: OrderOverviews, mediator: RequestMediator, policy: ExpiryPolicy
) -> None:
    """The overview may be behind, so the command looks again at the order itself."""
    overdue = await overviews.unpaid_since(tick.scheduled_at - policy.payment_window, limit=policy.batch)
    for order_id in overdue:
        await mediator.send(ExpireOrder(order_id=order_id))
