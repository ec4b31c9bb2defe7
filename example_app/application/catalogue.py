"""Products and their stock."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from cqrs_fastapi import (
    Changed,
    Command,
    Created,
    EventMap,
    Query,
    Repository,
    RequestHandler,
    RequestMap,
    RootRepository,
)
from example_app.application.ports import Catalogue
from example_app.application.views import ProductDetails, ProductPage, ProductSummary
from example_app.domain.money import Money
from example_app.domain.product import Product, product_id_of
from example_app.domain.refusals import ProductExistsError
from example_app.domain.stock import Stock

requests = RequestMap()
events = EventMap()

Sku = Annotated[str, Field(pattern=r"^[A-Z0-9-]{1,40}$")]
Quantity = Annotated[int, Field(ge=1, le=1_000_000)]


class AddProduct(Command[UUID]):
    """Answered with the product's identifier."""

    sku: Sku
    title: Annotated[str, Field(min_length=1, max_length=200)]
    price: Money
    stock: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class ChangePrice(Command[None]):
    product_id: UUID
    price: Money


class ReceiveStock(Command[int]):
    """Answered with what is available now."""

    product_id: UUID
    quantity: Quantity


class GetProduct(Query[ProductDetails]):
    product_id: UUID


class ListProducts(Query[ProductPage]):
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


@requests.handles(AddProduct)
class AddProductHandler(RequestHandler[AddProduct, UUID]):
    """A handler as a class: its constructor says what it needs."""

    def __init__(self, products: RootRepository[Product], stocks: Repository[Stock]) -> None:
        self._products, self._stocks = products, stocks

    async def handle(self, command: AddProduct) -> UUID:
        product = await self._products.get_or_new(product_id_of(command.sku))
        if not product.is_new:
            raise ProductExistsError(command.sku)
        product.update(sku=command.sku, title=command.title, price=command.price)
        if command.stock:
            stock = await self._stocks.get_or_new(product.id)
            stock.receive(command.stock)
        return product.id


@requests.handles(ChangePrice)
async def change_price(command: ChangePrice, products: RootRepository[Product]) -> None:
    product = await products.get(command.product_id)
    product.price = command.price


@requests.handles(ReceiveStock)
async def receive_stock(command: ReceiveStock, products: RootRepository[Product], stocks: Repository[Stock]) -> int:
    product = await products.get(command.product_id)
    stock = await stocks.get_or_new(product.id)
    stock.receive(command.quantity)
    return stock.available


@requests.handles(GetProduct)
async def get_product(
    query: GetProduct, products: RootRepository[Product], stocks: Repository[Stock]
) -> ProductDetails:
    product = await products.get(query.product_id)
    stock = await stocks.get_or_new(product.id)
    return ProductDetails(
        product_id=product.id, sku=product.sku, title=product.title, price=product.price, available=stock.available
    )


@requests.handles(ListProducts)
async def list_products(query: ListProducts, catalogue: Catalogue) -> ProductPage:
    # One more than asked for tells whether there is another page.
    found = tuple(await catalogue.page(after=query.after, limit=query.limit + 1))
    products = found[: query.limit]
    return ProductPage(products=products, next=products[-1].sku if len(found) > query.limit else None)


# The list is written in the transaction of the command: whoever got an answer finds the product in it.
@events.on(Created[Product], when="in_transaction")
async def list_new_product(event: Created[Product], catalogue: Catalogue) -> None:
    new = event.fields
    await catalogue.add(ProductSummary(product_id=event.id, sku=new.sku, title=new.title, price=new.price))


@events.on(Product.price, when="in_transaction")
async def list_new_price(event: Changed[Product, Money], catalogue: Catalogue) -> None:
    await catalogue.change_price(event.id, event.value)
