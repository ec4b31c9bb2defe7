"""The rules of the shop, without a database."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from cqrs_fastapi import Event
from cqrs_fastapi.testing import changed, created, given
from example_app.domain.customer import Address, Customer, CustomerMoved
from example_app.domain.money import Money
from example_app.domain.order import Order, OrderPolicy
from example_app.domain.order_events import OrderCancelled, OrderLine, OrderPaid, OrderPlaced, OrderShipped
from example_app.domain.product import Product, product_id_of
from example_app.domain.refusals import OrderRefusedError, OrderStateError, OutOfStockError
from example_app.domain.stock import Stock, StockReleased, StockReserved
from example_app.shipping.contracts import IGNORED, Destination, Goods
from example_app.shipping.contracts import OrderPaid as OrderPaidAsShippingReadsIt
from example_app.shipping.shipment import Shipment

HOME = Address("Ada", "Long Street 1", "Hamburg", "DE")
THERE = Destination(recipient="Ada", street="Long Street 1", city="Hamburg", country="DE")


def line(cents: int = 100, quantity: int = 1, product_id: UUID | None = None, currency: str = "EUR") -> OrderLine:
    return OrderLine(product_id or uuid4(), quantity, Money(cents, currency))


def placed(*lines: OrderLine) -> Order:
    order = Order(uuid4())
    order.place(uuid4(), lines or (line(),), HOME)
    return order


def test_amounts_of_one_currency_add_up_and_multiply() -> None:
    assert Money(150) + Money(50) * 3 == Money(300)


def test_amounts_of_two_currencies_are_never_added() -> None:
    with pytest.raises(ValueError, match="convert it first"):
        Money(100, "EUR") + Money(100, "USD")


def test_a_placed_order_costs_the_sum_of_its_lines() -> None:
    order = placed(line(cents=250, quantity=2), line(cents=99))
    (event,) = order.recorded
    assert isinstance(event, OrderPlaced)
    assert (order.status, event.total) == ("placed", Money(599))


def test_the_event_of_a_payment_carries_all_that_shipping_needs() -> None:
    order = placed(line(quantity=2))
    order.pay("reference")
    paid = order.recorded[-1]
    assert isinstance(paid, OrderPaid)
    assert (paid.lines, paid.ship_to, paid.amount) == (order.lines, HOME, Money(200))


def test_an_order_goes_from_placed_to_paid_to_shipped() -> None:
    order = placed()
    order.pay("reference")
    order.mark_shipped("SH1")
    assert [type(event) for event in order.recorded] == [OrderPlaced, OrderPaid, OrderShipped]


def test_marking_an_order_shipped_again_changes_nothing() -> None:
    order = placed()
    order.pay("reference")
    order.mark_shipped("SH1")
    before = order.recorded
    order.mark_shipped("SH1")
    assert order.recorded == before


def test_an_order_that_was_not_paid_is_never_shipped() -> None:
    with pytest.raises(OrderStateError, match="is placed"):
        placed().mark_shipped("SH1")


def test_an_order_is_paid_once() -> None:
    order = placed()
    order.pay("reference")
    with pytest.raises(OrderStateError, match="is paid"):
        order.pay("reference")


def test_a_paid_order_cannot_be_cancelled() -> None:
    order = placed()
    order.pay("reference")
    with pytest.raises(OrderStateError, match="is paid"):
        order.cancel("too late")


def test_a_cancelled_order_cannot_be_paid() -> None:
    order = placed()
    order.cancel("no longer wanted")
    assert isinstance(order.recorded[-1], OrderCancelled)
    with pytest.raises(OrderStateError, match="is cancelled"):
        order.require_placed()


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
    stock, order_id = Stock(uuid4()), uuid4()
    stock.receive(5)
    stock.reserve(order_id, 3)
    assert stock.available == 2
    stock.release(order_id, 3)
    assert stock.available == 5
    assert stock.recorded[1:] == (
        StockReserved(order_id=order_id, quantity=3),
        StockReleased(order_id=order_id, quantity=3),
    )


def test_the_last_piece_can_be_reserved_and_one_more_cannot() -> None:
    stock = Stock(uuid4())
    stock.receive(1)
    stock.reserve(uuid4(), 1)
    with pytest.raises(OutOfStockError, match=r"1 of product .* were asked for, and 0 are available"):
        stock.reserve(uuid4(), 1)
    assert stock.available == 0


def test_a_sku_has_one_product() -> None:
    assert product_id_of("MUG-1") == product_id_of("MUG-1") != product_id_of("MUG-2")


def test_a_price_that_stays_the_same_is_no_event() -> None:
    mug = created(Product, sku="MUG-1", title="Mug", price=Money(990))
    given(Product, mug).when(lambda product: product.update(price=Money(990))).then()
    given(Product, mug).when(lambda product: product.update(price=Money(890))).then(changed(Product.price, Money(890)))


def test_a_customer_moves_only_to_another_address() -> None:
    customer = Customer(uuid4())
    customer.register("Ada", "ada@example.com", HOME)
    elsewhere = Address("Ada", "Short Street 2", "Lyon", "FR")
    customer.move(HOME)
    customer.move(elsewhere)
    assert customer.recorded[1:] == (CustomerMoved(address=elsewhere),)


def test_shipping_dispatches_an_order_once_however_often_it_is_asked() -> None:
    shipment = Shipment(uuid4())
    goods = [Goods(product_id=uuid4(), quantity=2), Goods(product_id=uuid4(), quantity=1)]
    shipment.dispatch(goods, THERE)
    shipment.dispatch(goods, THERE)
    assert [event.pieces for event in shipment.recorded if hasattr(event, "pieces")] == [3]


def test_shipping_can_read_every_event_that_the_shop_publishes() -> None:
    order = placed(line(quantity=2))
    order.pay("reference")
    order.mark_shipped("SH1")
    other = placed()
    other.cancel("no longer wanted")
    known = {one.__event__: one for one in (OrderPaidAsShippingReadsIt, *IGNORED)}
    for event in (*order.recorded, *other.recorded):
        assert isinstance(event, Event)
        read = known[event.__event__].model_validate_json(event.model_dump_json())
        assert vars(read)["order_id"] == vars(event)["order_id"]
