"""Routes of products."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from cqrs_fastapi import MediatorDep
from example_app.application.catalogue import AddProduct, ChangePrice, GetProduct, ListProducts, ReceiveStock
from example_app.application.views import ProductDetails, ProductPage
from example_app.entrypoints.bodies import Delivery, NewPrice, ProductMade, StockLevel

router = APIRouter(prefix="/products", tags=["products"])


@router.post("", status_code=201)
async def add_product(command: AddProduct, mediator: MediatorDep) -> ProductMade:
    return ProductMade(product_id=await mediator.send(command))


@router.get("")
async def list_products(query: Annotated[ListProducts, Query()], mediator: MediatorDep) -> ProductPage:
    return await mediator.send(query)


@router.get("/{product_id}")
async def get_product(product_id: UUID, mediator: MediatorDep) -> ProductDetails:
    return await mediator.send(GetProduct(product_id=product_id))


@router.put("/{product_id}/price", status_code=204)
async def change_price(product_id: UUID, body: NewPrice, mediator: MediatorDep) -> None:
    await mediator.send(ChangePrice(product_id=product_id, price=body.price))


@router.post("/{product_id}/stock")
async def receive_stock(product_id: UUID, body: Delivery, mediator: MediatorDep) -> StockLevel:
    return StockLevel(available=await mediator.send(ReceiveStock(product_id=product_id, quantity=body.quantity)))
