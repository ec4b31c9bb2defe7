"""A bank that exists in this process only."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from uuid import UUID, uuid5

from example_app.application.ports import PaymentGateway
from example_app.domain.money import Money
from example_app.domain.refusals import PaymentDeclinedError

log = logging.getLogger("example_app.payments")

_AUTHORIZATIONS = UUID("0d8f7c5e-52f1-4f0a-9a53-2a0f8a1a7c44")


class SimulatedPaymentGateway:
    """Declines `expired-card` and takes every other means of payment. The reference follows from the order alone, so a
    repeated call gives the same one, as a real bank does for a repeated idempotency key.
    """

    def __init__(self) -> None:
        self._connected = True

    async def authorize(self, order_id: UUID, amount: Money, method: str) -> str:
        self._require_connection()
        if method == "expired-card":
            raise PaymentDeclinedError(order_id)
        return str(uuid5(_AUTHORIZATIONS, f"{order_id}:{amount.cents}:{amount.currency}"))

    async def capture(self, order_id: UUID, authorization: str) -> None:
        self._require_connection()
        log.info("captured %s for order %s", authorization, order_id)

    async def disconnect(self) -> None:
        self._connected = False

    def _require_connection(self) -> None:
        if not self._connected:
            raise ConnectionError("the connection to the bank is closed")


async def payment_gateway() -> AsyncIterator[PaymentGateway]:
    """Connected when the application starts, disconnected after its last message."""
    gateway = SimulatedPaymentGateway()
    try:
        yield gateway
    finally:
        await gateway.disconnect()
