"""The rules of the shop, without a database."""

from __future__ import annotations

import re
from functools import reduce
from operator import add
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi import Event
from cqrs_fastapi.testing import changed, created, given, scenario
from cqrs_fastapi.testing.scenarios import Given
from example_app.application.orders import CancelOrder, PayOrder, cancel_order, pay_order
from example_app.application.ports import AuditTrail, PaymentGateway
from example_app.domain.customer import Address, Customer, CustomerMoved, CustomerRegistered
from example_app.domain.money import Money
from example_app.domain.order import Order, OrderPolicy
from example_app.domain.order_events import OrderCancelled, OrderLine, OrderPaid, OrderPlaced, OrderShipped
from example_app.domain.product import Product, product_id_of
from example_app.domain.refusals import OrderRefusedError, OrderStateError, OutOfStockError
from example_app.domain.stock import Stock, StockReceived, StockReleased, StockReserved
from example_app.shipping.contracts import IGNORED, Destination, Goods
from example_app.shipping.contracts import OrderPaid as OrderPaidAsShippingReadsIt
from example_app.shipping.shipment import Shipment, ShipmentDispatched

HOME = Address("Ada", "Long Street 1", "Hamburg", "DE")
THERE = Destination(recipient="Ada", street="Long Street 1", city="Hamburg", country="DE")


def line(cents: int = 100, quantity: int = 1, product_id: UUID | None = None, currency: str = "EUR") -> OrderLine:
    return OrderLine(product_id or uuid4(), quantity, Money(cents, currency))


ORDER, ADA = uuid4(), uuid4()


def placement(*lines: OrderLine) -> OrderPlaced:
    """What an order of these lines, or of any one line, begins with."""
    lines = lines or (line(),)
    total = reduce(add, (one.price * one.quantity for one in lines))
    return OrderPlaced(order_id=ORDER, customer_id=ADA, lines=lines, total=total, ship_to=HOME)


def payment(placed: OrderPlaced) -> OrderPaid:
    return OrderPaid(
        order_id=ORDER, amount=placed.total, authorization="reference", lines=placed.lines, ship_to=placed.ship_to
    )


def order(*history: Event) -> Given[Order]:
    return given(Order, *history, id=ORDER)


PLACED = placement()
PAID = payment(PLACED)
SHIPPED = OrderShipped(order_id=ORDER, tracking="SH1")


def test_amounts_of_one_currency_add_up_and_multiply() -> None:
    assert Money(150) + Money(50) * 3 == Money(300)


def test_amounts_of_two_currencies_are_never_added() -> None:
    with pytest.raises(ValueError, match="convert it first"):
        Money(100, "EUR") + Money(100, "USD")


def test_a_placed_order_costs_the_sum_of_its_lines() -> None:
    lines = (line(cents=250, quantity=2), line(cents=99))
    placed = order().when(lambda it: it.place(ADA, lines, HOME)).then(placement(*lines))
    assert (placed.status, placed.total) == ("placed", Money(599))


def test_the_event_of_a_payment_carries_all_that_shipping_needs() -> None:
    placed = placement(line(quantity=2))
    paid = OrderPaid(order_id=ORDER, amount=Money(200), authorization="reference", lines=placed.lines, ship_to=HOME)
    order(placed).when(lambda it: it.pay("reference")).then(paid)


def test_an_order_goes_from_placed_to_paid_to_shipped() -> None:
    assert order(PLACED).when(lambda it: it.pay("reference")).then(PAID).status == "paid"
    assert order(PLACED, PAID).when(lambda it: it.mark_shipped("SH1")).then(SHIPPED).status == "shipped"


def test_marking_an_order_shipped_again_changes_nothing() -> None:
    order(PLACED, PAID).when(lambda it: it.mark_shipped("SH1"), number_of_times=2).then(SHIPPED)


def test_an_order_that_was_not_paid_is_never_shipped() -> None:
    refused = order(PLACED).when(lambda it: it.mark_shipped("SH1")).then_raises(OrderStateError)
    assert "is placed" in str(refused)


def test_an_order_is_paid_once() -> None:
    refused = order(PLACED, PAID).when(lambda it: it.pay("reference")).then_raises(OrderStateError)
    assert "is paid" in str(refused)


def test_a_paid_order_cannot_be_cancelled() -> None:
    refused = order(PLACED, PAID).when(lambda it: it.cancel("too late")).then_raises(OrderStateError)
    assert "is paid" in str(refused)


def test_a_cancelled_order_cannot_be_paid() -> None:
    cancelled = OrderCancelled(order_id=ORDER, reason="no longer wanted")
    order(PLACED).when(lambda it: it.cancel("no longer wanted")).then(cancelled)
    refused = order(PLACED, cancelled).when(Order.require_placed).then_raises(OrderStateError)
    assert "is cancelled" in str(refused)


SAME = uuid4()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "at least one line"),
        ([line()] * 21, "at most 20 lines"),
        ([line(product_id=SAME), line(product_id=SAME)], "on two lines"),
        ([line(), line(currency="USD")], "one currency"),
        ([line(quantity=51)], "at most 50 pieces"),
    ],
)
def test_the_policy_refuses_orders_and_says_what_to_do(lines: list[OrderLine], sentence: str) -> None:
    with pytest.raises(OrderRefusedError, match=sentence):
        OrderPolicy().check(lines)


def test_an_ordinary_order_is_within_the_policy() -> None:
    OrderPolicy().check([line(quantity=50), line()])


def test_what_is_reserved_is_no_longer_available_until_it_is_released() -> None:
    received = StockReceived(quantity=5)
    reserved, released = StockReserved(order_id=ORDER, quantity=3), StockReleased(order_id=ORDER, quantity=3)
    assert given(Stock, received).when(lambda it: it.reserve(ORDER, 3)).then(reserved).available == 2
    assert given(Stock, received, reserved).when(lambda it: it.release(ORDER, 3)).then(released).available == 5


def test_what_is_received_is_available() -> None:
    assert given(Stock).when(lambda it: it.receive(5)).then(StockReceived(quantity=5)).available == 5


def test_the_last_piece_can_be_reserved_and_one_more_cannot() -> None:
    one, taken = StockReceived(quantity=1), StockReserved(order_id=ORDER, quantity=1)
    given(Stock, one).when(lambda it: it.reserve(ORDER, 1)).then(taken)
    refused = given(Stock, one, taken).when(lambda it: it.reserve(uuid4(), 1)).then_raises(OutOfStockError)
    assert re.search("1 of product .* were asked for, and 0 are available", str(refused))


def test_a_sku_has_one_product() -> None:
    assert product_id_of("MUG-1") == product_id_of("MUG-1") != product_id_of("MUG-2")


def test_a_price_that_stays_the_same_is_no_event() -> None:
    mug = created(Product, sku="MUG-1", title="Mug", price=Money(990))
    given(Product, mug).when(lambda product: product.update(price=Money(990))).then()
    given(Product, mug).when(lambda product: product.update(price=Money(890))).then(changed(Product.price, Money(890)))


def test_a_customer_moves_only_to_another_address() -> None:
    registered = CustomerRegistered(name="Ada", email="ada@example.com", address=HOME)
    elsewhere = Address("Ada", "Short Street 2", "Lyon", "FR")
    given(Customer).when(lambda it: it.register("Ada", "ada@example.com", HOME)).then(registered)
    given(Customer, registered).when(lambda it: it.move(HOME)).then()
    given(Customer, registered).when(lambda it: it.move(elsewhere)).then(CustomerMoved(address=elsewhere))


def test_shipping_dispatches_an_order_once_however_often_it_is_asked() -> None:
    goods = [Goods(product_id=uuid4(), quantity=2), Goods(product_id=uuid4(), quantity=1)]
    outcome = given(Shipment).when(lambda it: it.dispatch(goods, THERE), number_of_times=2)
    assert [(type(one), vars(one)["pieces"]) for one in outcome.aggregate.recorded] == [(ShipmentDispatched, 3)]


class Bank:
    """A gateway that accepts everything."""

    async def authorize(self, order_id: UUID, amount: Money, method: str) -> str:
        return "reference"

    async def capture(self, order_id: UUID, authorization: str) -> None:
        raise AssertionError("money moves after the commit")


class Notes:
    """An audit trail."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.anyio
async def test_paying_reserves_the_money_and_says_so_in_the_audit_trail() -> None:
    notes = Notes()
    shop = scenario(pay_order).with_(PaymentGateway, Bank()).with_(AuditTrail, notes)
    (await shop.given(Order, ORDER, PLACED).when(PayOrder(order_id=ORDER))).then(PAID)
    assert notes.lines == [f"order {ORDER} paid by card"]
    (await shop.given(Order, ORDER, PLACED, PAID).when(PayOrder(order_id=ORDER))).then_raises(OrderStateError)


@pytest.mark.anyio
async def test_cancelling_gives_back_the_goods_of_each_line() -> None:
    mug, cup = uuid4(), uuid4()
    placed = placement(line(product_id=mug, quantity=2), line(product_id=cup))
    shop = scenario(cancel_order).with_(AuditTrail, Notes()).given(Order, ORDER, placed)
    for product, quantity in ((mug, 2), (cup, 1)):
        reserved = StockReserved(order_id=ORDER, quantity=quantity)
        shop = shop.given(Stock, product, StockReceived(quantity=9), reserved)
    outcome = await shop.when(CancelOrder(order_id=ORDER, reason="why not"))
    outcome.then_of(Order, ORDER, OrderCancelled(order_id=ORDER, reason="why not"))
    outcome.then_of(Stock, mug, StockReleased(order_id=ORDER, quantity=2))
    outcome.then_of(Stock, cup, StockReleased(order_id=ORDER, quantity=1))


def test_shipping_can_read_every_event_that_the_shop_publishes() -> None:
    cancelled = OrderCancelled(order_id=ORDER, reason="no longer wanted")
    known = {one.__event__: one for one in (OrderPaidAsShippingReadsIt, *IGNORED)}
    for event in (PLACED, PAID, SHIPPED, cancelled):
        read = known[event.__event__].model_validate_json(event.model_dump_json())
        assert vars(read)["order_id"] == ORDER
