"""What the shop refuses. The codes are part of its public interface."""

from __future__ import annotations

from uuid import UUID

from cqrs_fastapi import DomainError


class ProductExistsError(DomainError):
    """The SKU is taken."""

    code = "shop.product_exists"

    def __init__(self, sku: str) -> None:
        super().__init__(f"there is a product {sku!r} already; change its price, or receive stock for it")


class OutOfStockError(DomainError):
    """Less is in stock than was asked for; nothing was reserved."""

    code = "shop.out_of_stock"

    def __init__(self, product_id: UUID, *, wanted: int, available: int) -> None:
        self.product_id, self.wanted, self.available = product_id, wanted, available
        super().__init__(f"{wanted} of product {product_id} were asked for, and {available} are available")


class OrderRefusedError(DomainError):
    """The order as such cannot be accepted."""

    code = "shop.order_refused"


class OrderStateError(DomainError):
    """The order has gone too far, or not far enough, for what was asked."""

    code = "shop.order_state"

    def __init__(self, order_id: UUID, *, status: str, wanted: str) -> None:
        self.order_id, self.status = order_id, status
        super().__init__(f"order {order_id} is {status}; only an order that is {wanted} allows this")


class PaymentDeclinedError(DomainError):
    """The bank said no. Another means of payment may be tried."""

    code = "shop.payment_declined"

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"the payment of order {order_id} was declined; try another means of payment")
