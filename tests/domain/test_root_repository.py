"""Root entities in an application: what is stored of them, found, refused and told to handlers, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
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
    NotFoundError,
    Page,
    Projection,
    Query,
    RootEntity,
    RootRepository,
    Settings,
    Tracked,
    Updated,
    ValueObject,
    ValueObjectSet,
    on,
    tracked,
)
from cqrs_fastapi.errors import ReadOnlyError, RegistrationError
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio


class Tag(ValueObject):
    name: str


class Part(Entity):
    pieces: int


class Product(RootEntity):
    price: Tracked[int]
    title: Tracked[str] = tracked(default="")
    tags: Tracked[ValueObjectSet[Tag]] = tracked(default_factory=ValueObjectSet)
    parts: Tracked[EntitySet[Part]] = tracked(default_factory=EntitySet)
    sizes: Tracked[list[int]] = tracked(default_factory=list)


Products = RootRepository[Product]


class Do(Command[None]):
    """Whatever the test wants done with the products of one unit of work."""

    what: str


class Look(Query[None]):
    what: str


class Shop:
    """The program; each of its commands runs the function that the test gives."""

    def __init__(self, url: str) -> None:
        self.cqrs = CQRS(settings=Settings(database_url=url))
        self._work: Callable[[Products], Awaitable[None]]

        @self.cqrs.handles(Do)
        async def do(command: Do, products: RootRepository[Product]) -> None:
            await self._work(products)

        @self.cqrs.handles(Look)
        async def look(query: Look, products: RootRepository[Product]) -> None:
            await self._work(products)

    async def do(self, work: Callable[[Products], Awaitable[None]]) -> None:
        self._work = work
        await self.cqrs.mediator.send(Do(what=""))

    async def look(self, work: Callable[[Products], Awaitable[None]]) -> None:
        self._work = work
        await self.cqrs.mediator.send(Look(what=""))

    async def created(self, **fields: object) -> UUID:
        made: list[UUID] = []

        async def create(products: Products) -> None:
            made.append(products.create(**{"price": 1, **fields}).id)

        await self.do(create)
        return made[-1]

    async def stored(self, id: UUID) -> list[str]:
        """The names of the events of one product."""
        async with self.cqrs.database.engine.connect() as connection:
            rows = await connection.execute(
                text("SELECT type FROM cqrs_events WHERE stream = :stream ORDER BY version"), {"stream": f"Product-{id}"}
            )
            return list(rows.scalars())

    async def rows(self) -> int:
        async with self.cqrs.database.engine.connect() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM cqrs_root_states"))).scalar_one())


@pytest.fixture
async def url(database_url: str) -> str:
    engine = create_async_engine(database_url)
    if not database_url.startswith("sqlite"):
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    await engine.dispose()
    return database_url


@pytest.fixture
async def shop(url: str) -> AsyncIterator[Shop]:
    shop = Shop(url)
    async with shop.cqrs.running(workers=()):
        yield shop


async def test_what_is_done_to_the_fields_is_stored_as_events(shop: Shop) -> None:
    id = await shop.created(price=3)

    async def change(products: Products) -> None:
        product = await products.get(id)
        product.tags.add(Tag(name="new"))
        product.price = 5
        product.sizes.append(38)

    await shop.do(change)
    assert await shop.stored(id) == [
        "ProductCreated",
        "ProductUpdated.price",
        "ProductUpdated.tags.create",
        "ProductUpdated.sizes",
    ]

    async def look(products: Products) -> None:
        product = await products.get(id)
        assert (product.price, list(product.tags), product.sizes) == (5, [Tag(name="new")], [38])
        assert product.version == 4
        assert product.created_at < product.updated_at <= datetime.now(UTC)
        assert await products.find(Product.price == 5) == Page((product,), None)
        assert len(await products.find(Product.price == 3)) == 0

    await shop.look(look)
