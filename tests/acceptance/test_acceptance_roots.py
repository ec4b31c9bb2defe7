"""What is promised of root entities, part by part, of one program that uses them as its users do: embedded, and on
PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi import (
    CQRS,
    Changed,
    Command,
    ConcurrencyError,
    Created,
    Deleted,
    DeletedError,
    Entity,
    EntitySet,
    EventStore,
    MediatorDep,
    NotFoundError,
    Query,
    RootEntity,
    RootRepository,
    Settings,
    Tracked,
    Updated,
    ValueObject,
    ValueObjectSet,
    tracked,
)
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio


class Tag(ValueObject):
    name: str


class Variant(Entity):
    size: int


class Maker(ValueObject):
    city: str


class Product(RootEntity):
    price: Tracked[int]
    title: Tracked[str] = tracked(default="")
    maker: Tracked[Maker | None] = tracked(default=None)
    tags: Tracked[ValueObjectSet[Tag]] = tracked(default_factory=ValueObjectSet[Tag])
    variants: Tracked[EntitySet[Variant]] = tracked(default_factory=EntitySet[Variant])


Products = RootRepository[Product]


class Change(Command[None]):
    """Does what the test says in a command."""


class Look(Query[None]):
    """Does what the test says in a query."""


class History(Query[list[str]]):
    product_id: UUID


class Shop:
    """The program: whatever a handler does with products, and what handlers were told."""

    def __init__(self, url: str) -> None:
        self.cqrs = CQRS(settings=Settings(database_url=url))
        self.told: list[tuple[str, object]] = []
        self._work: Callable[[Products], Awaitable[None]]

        @self.cqrs.handles(Change)
        async def change(command: Change, products: RootRepository[Product]) -> None:
            await self._work(products)

        @self.cqrs.handles(Look)
        async def look(query: Look, products: RootRepository[Product]) -> None:
            await self._work(products)

        @self.cqrs.handles(History)
        async def history(query: History, store: EventStore) -> list[str]:
            return [type(found.event).__event__.name async for found in store.read(f"Product-{query.product_id}")]

        @self.cqrs.on(Created[Product], when="in_transaction")
        async def created(event: Created[Product]) -> None:
            self.told.append(("created", event.fields.price))

        @self.cqrs.on(Updated[Product], when="in_transaction")
        async def updated(event: Updated[Product]) -> None:
            self.told.append(("updated", event.diff))

        @self.cqrs.on(Product.price, when="in_transaction")
        async def price(event: Changed[Product, int]) -> None:
            self.told.append(("price", event.value))

        @self.cqrs.on(Deleted[Product], when="in_transaction")
        async def deleted(event: Deleted[Product]) -> None:
            self.told.append(("deleted", event.id))

    async def change(self, work: Callable[[Products], Awaitable[None]]) -> None:
        self._work = work
        await self.cqrs.mediator.send(Change())

    async def look(self, work: Callable[[Products], Awaitable[None]]) -> None:
        self._work = work
        await self.cqrs.mediator.send(Look())

    async def create(self, **fields: object) -> UUID:
        product_id = uuid4()

        async def create(products: Products) -> None:
            products.create(id=product_id, **fields)

        await self.change(create)
        return product_id

    async def history(self, product_id: UUID) -> list[str]:
        return await self.cqrs.mediator.send(History(product_id=product_id))


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    if not database_url.startswith("sqlite"):
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()
    shop = Shop(database_url)
    async with shop.cqrs.running(workers=()):
        yield shop


async def test_root_entities_record_creation_changes_and_deletion_by_themselves(shop: Shop) -> None:
    small, large = Variant(size=36), Variant(size=46)
    product_id = await shop.create(price=100, tags=[Tag(name="old")], variants=[small, large])

    async def change(products: Products) -> None:
        product = await products.get(product_id)
        product.price = 90
        product.tags.add(Tag(name="new"))
        product.tags.discard(Tag(name="old"))
        product.variants[small.id].size = 37
        product.variants.discard(large)

    async def delete(products: Products) -> None:
        products.delete(await products.get(product_id))

    await shop.change(change)
    await shop.change(delete)
    assert await shop.history(product_id) == [
        "ProductCreated",
        "ProductUpdated.price",
        "ProductUpdated.tags.create",
        "ProductUpdated.tags.delete",
        "ProductUpdated.variants.update",
        "ProductUpdated.variants.delete",
        "ProductDeleted",
    ]
    assert [what for what, _ in shop.told] == ["created", "updated", "price", *["updated"] * 4, "deleted"]


async def test_root_entities_have_a_version_and_times_that_are_refused_as_input(shop: Shop) -> None:
    before = datetime.now(UTC)
    product_id = await shop.create(price=1)

    async def change(products: Products) -> None:
        (await products.get(product_id)).price = 2

    async def look(products: Products) -> None:
        product = await products.get(product_id)
        assert product.version == 2
        assert before <= product.created_at < product.updated_at <= datetime.now(UTC)

    await shop.change(change)
    await shop.look(look)
    for name in ("version", "created_at", "updated_at"):
        with pytest.raises(TypeError, match=f"Product.{name} is kept by the library and cannot be given"):
            await shop.create(price=1, **{name: 3})


async def test_root_entities_are_saved_updated_and_refreshed(shop: Shop) -> None:
    made = Product(uuid4())
    made.price = 1

    async def save(products: Products) -> None:
        products.save(made)

    async def update(products: Products) -> None:
        product = await products.get(made.id)
        products.update(product, price=7, title="lost")
        await products.refresh(product)
        assert (product.price, product.title) == (1, "")
        products.update(product, title="kept")

    async def look(products: Products) -> None:
        product = await products.get(made.id)
        assert (product.price, product.title, product.version) == (1, "kept", 2)

    await shop.change(save)
    await shop.change(update)
    await shop.look(look)


async def test_root_entities_record_nothing_for_a_change_of_nothing(shop: Shop) -> None:
    product_id = await shop.create(price=1, tags=[Tag(name="x")])

    async def change(products: Products) -> None:
        product = await products.get(product_id)
        product.price = 2
        product.price = 1
        product.tags.discard(Tag(name="x"))
        product.tags.add(Tag(name="x"))

    await shop.change(change)
    assert await shop.history(product_id) == ["ProductCreated"]


async def test_root_entities_lose_no_update_of_two_writers_at_the_same_time(shop: Shop) -> None:
    product_id, both, decided = await shop.create(price=0), asyncio.Barrier(2), 0

    async def add_one(products: Products) -> None:
        nonlocal decided
        decided += 1
        (product,) = await products.find(Product.id == product_id)
        if decided <= 2:
            await both.wait()
        product.price += 1

    async def look(products: Products) -> None:
        assert (await products.get(product_id)).price == 2
        with pytest.raises(ConcurrencyError):
            await products.get(product_id, expected_version=1)

    await asyncio.gather(shop.change(add_one), shop.change(add_one))
    assert decided == 3
    await shop.look(look)


async def test_root_entities_that_are_deleted_are_another_error_than_those_that_never_were(shop: Shop) -> None:
    product_id = await shop.create(price=1)

    async def delete(products: Products) -> None:
        products.delete(await products.get(product_id))

    async def look(products: Products) -> None:
        with pytest.raises(DeletedError):
            await products.get(product_id)
        with pytest.raises(NotFoundError):
            await products.get(uuid4())

    await shop.change(delete)
    await shop.look(look)


async def test_root_entities_that_are_deleted_are_answered_by_410(database_url: str, shop: Shop) -> None:
    app, cqrs = FastAPI(), CQRS(settings=Settings(database_url=database_url))

    @cqrs.handles(Discontinue)
    async def discontinue(command: Discontinue, products: RootRepository[Product]) -> None:
        products.delete(await products.get(command.product_id))

    @app.post("/discontinued")
    async def discontinued(command: Discontinue, mediator: MediatorDep) -> None:
        await mediator.send(command)

    cqrs.install(app)
    product_id = await shop.create(price=1)
    async with cqrs.running(workers=()), AsyncClient(transport=ASGITransport(app), base_url="http://shop") as client:
        answers = [await client.post("/discontinued", json={"product_id": str(one)}) for one in (product_id,) * 2]
        answers.append(await client.post("/discontinued", json={"product_id": str(uuid4())}))
    assert [answer.status_code for answer in answers] == [200, 410, 404]
    assert [answer.json()["code"] for answer in answers[1:]] == ["deleted", "not_found"]


class Discontinue(Command[None]):
    product_id: UUID


async def test_root_entities_tell_what_differs_by_name_attribute_and_field_and_fold_it_back(shop: Shop) -> None:
    product_id = await shop.create(price=1, tags=[Tag(name="old")])

    async def change(products: Products) -> None:
        product = await products.get(product_id)
        old = Product(product_id)
        old.update(price=product.price, tags=product.tags)
        product.update(price=2, tags=[Tag(name="new")])
        diff = old.diff(product)
        assert list(diff) == ["price", "tags"]
        assert diff["price"] == diff.price == 2
        assert (diff.tags.created, diff.tags.deleted) == ((Tag(name="new"),), (Tag(name="old"),))
        for part in diff.decompose():
            old.apply_diff(part)
        assert not old.diff(product)

    await shop.change(change)
    old: Any = Product(product_id)
    old.update(price=1, tags=[Tag(name="old")])
    for what, diff in shop.told:
        if what == "updated":
            old.apply_diff(diff)
    assert (old.price, list(old.tags)) == (2, [Tag(name="new")])


@pytest.mark.parametrize("name", ["version", "updated_at", "recorded", "delete", "class"])
def test_root_entities_refuse_fields_that_are_called_as_something_else_is(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        type("Thing", (RootEntity,), {"__annotations__": {name: Tracked[int]}})


def test_root_entities_refuse_references_in_a_circle() -> None:
    with pytest.raises(TypeError, match=r"Thing.other: a field cannot hold a Thing.*hold its id: UUID"):
        type("Thing", (RootEntity,), {"__annotations__": {"other": Tracked["Thing"]}})  # being made


async def test_finding_by_conditions_in_an_order_page_by_page(shop: Shop) -> None:
    for price in range(6):
        await shop.create(price=price, title=f"p{price}", maker=Maker(city="Kyiv" if price % 2 else "Lviv"))

    async def look(products: Products) -> None:
        ordering = Product.price.descending()
        first = await products.find(Product.price >= 1, ordering=ordering, limit=3)
        second = await products.find(Product.price >= 1, ordering=ordering, limit=3, after=first.next)
        assert [product.price for product in (*first, *second)] == [5, 4, 3, 2, 1]
        assert second.next is None
        found = await products.find((Product.maker.city == "Kyiv") & ~Product.title.like("%5"), ordering=ordering)
        assert [product.price for product in found] == [3, 1]
        assert [product.price async for product in products.stream(Product.version == 1, ordering=ordering)] == [
            *range(5, -1, -1)
        ]

    await shop.look(look)


async def test_finding_sees_what_the_unit_of_work_has_done_and_gives_one_object_for_each(shop: Shop) -> None:
    ids = [await shop.create(price=price) for price in (1, 2, 3)]

    async def change(products: Products) -> None:
        first, second, third = await products.get_all(ids)
        first.price = 10
        products.delete(second)
        new = products.create(price=4)
        found = await products.find(ordering=Product.price.ascending())
        assert [id(one) for one in found] == [id(one) for one in (third, new, first)]
        found[0].price = 30

    async def look(products: Products) -> None:
        assert [product.price for product in await products.find(ordering=Product.price.ascending())] == [4, 10, 30]

    await shop.change(change)
    await shop.look(look)
