"""References to what another service owns: one request for each class."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from dependency_injector import providers
from pydantic import BaseModel
from warehouse import Ear, Names, prepare, settings_of

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    BrokerRefResolver,
    Command,
    CqrsContainer,
    Event,
    NotFoundError,
    Provides,
    Query,
    Ref,
    RefResolver,
    Repository,
    RootEntity,
    RootRepository,
    Tracked,
    applies,
    resolve_refs,
)
from cqrs_fastapi.brokers.memory.broker import MemoryBroker
from cqrs_fastapi.domain.entities import ExternalEntity
from cqrs_fastapi.domain.refs import UnresolvedRefError

pytestmark = pytest.mark.anyio


class Product(RootEntity):
    title: Tracked[str]
    purchase_price: Tracked[int]


class Opened(Event):
    title: str


class Shelf(Aggregate):
    title: str = ""

    @applies
    def on_opened(self, event: Opened) -> None:
        self.title = event.title


class ProductView(BaseModel):
    """What others may see: not what we pay for it."""

    id: UUID
    version: int
    title: str


class ShelfView(BaseModel):
    id: UUID
    title: str


class AddProduct(Command[UUID]):
    title: str


class OpenShelf(Command[UUID]):
    title: str


def catalogue(url: str, broker: MemoryBroker, names: Names) -> CQRS:
    cqrs = CQRS(settings=settings_of("catalogue", url, "memory://"), broker=broker)

    @cqrs.handles(AddProduct)
    async def add(command: AddProduct, products: RootRepository[Product]) -> UUID:
        product = Product(uuid4())
        product.title, product.purchase_price = command.title, 7
        products.add(product)
        return product.id

    @cqrs.handles(OpenShelf)
    async def open_shelf(command: OpenShelf, shelves: Repository[Shelf]) -> UUID:
        shelf = await shelves.get_or_new(uuid4())
        shelf.record(Opened(title=command.title))
        return shelf.id

    cqrs.brokers.refs(Product, ProductView)
    cqrs.brokers.refs(Shelf, ShelfView, topic="Shelves")
    return cqrs


class ProductMirror(ExternalEntity):
    title: str


class ShelfMirror(BaseModel):
    id: UUID
    title: str


class Cart(Aggregate): ...


class Opaque:
    id: UUID


class Show(Query[list[str]]):
    products: list[Ref[ProductMirror]]
    shelf: Ref[ShelfMirror]


class Container(CqrsContainer):
    refs: Provides[RefResolver] = providers.Factory(
        BrokerRefResolver, topics={ProductMirror: "Product.refs", ShelfMirror: "Shelves"}
    )


@pytest.fixture
async def owner(database_url: str, names: Names) -> AsyncIterator[CQRS]:
    cqrs = catalogue(database_url, MemoryBroker(), names)
    await prepare(cqrs)
    async with cqrs.running(workers=("consumer",)):
        yield cqrs


@pytest.fixture
async def asker(owner: CQRS, tmp_path: Path) -> AsyncIterator[CQRS]:
    settings = settings_of("asker", f"sqlite+aiosqlite:///{tmp_path / 'asker.db'}", "memory://")
    cqrs = CQRS(settings=settings, broker=owner.broker, container=Container())

    @cqrs.handles(Show)
    async def show(query: Show, carts: Repository[Cart]) -> list[str]:
        await resolve_refs(query)
        return [ref.value.title for ref in query.products] + [query.shelf.value.title]

    async with cqrs.running(workers=()):
        yield cqrs


async def test_references_are_resolved_by_one_request_for_each_class(owner: CQRS, asker: CQRS) -> None:
    products = [await owner.mediator.send(AddProduct(title=f"chair{number}")) for number in range(5)]
    shelf = await owner.mediator.send(OpenShelf(title="left"))
    asked = Show(products=[*products, products[0]], shelf=shelf)  # type: ignore[list-item, arg-type]  # made of ids

    async with Ear(owner.broker, "Product.refs") as ear, Ear(owner.broker, "Shelves") as shelves:
        assert await asker.mediator.send(asked) == ["chair0", "chair1", "chair2", "chair3", "chair4", "chair0", "left"]

    assert (len(ear.heard), len(shelves.heard)) == (1, 1)
    assert b"purchase" not in b"".join(message.payload for message in ear.heard)


async def test_others_see_of_it_what_the_view_holds(owner: CQRS, asker: CQRS) -> None:
    product = await owner.mediator.send(AddProduct(title="chair"))

    async with Ear(owner.broker, "asker.replies") as ear:
        resolver = BrokerRefResolver(asker.broker_client, own=None, topics={ProductMirror: "Product.refs"})  # type: ignore[arg-type]  # no aggregate is asked for
        found = await resolver.resolve(ProductMirror, (product,))

    assert found == {product: ProductMirror(id=product, version=1, title="chair")}
    [reply] = ear.heard
    assert b"purchase_price" not in reply.payload


async def test_what_is_missing_is_told_by_its_ids(owner: CQRS, asker: CQRS) -> None:
    missing = uuid4()
    ref = Ref(ProductMirror, missing)
    resolver = BrokerRefResolver(asker.broker_client, own=None, topics={ProductMirror: "Product.refs"})  # type: ignore[arg-type]  # as above
    with pytest.raises(NotFoundError, match=str(missing)):
        await resolve_refs(ref, resolver)


async def test_what_no_reply_can_hold_is_refused_unasked(asker: CQRS) -> None:
    resolver = BrokerRefResolver(asker.broker_client, own=None)  # type: ignore[arg-type]  # as above
    with pytest.raises(UnresolvedRefError, match="ExternalEntity"):
        await resolver.resolve(Opaque, (uuid4(),))
