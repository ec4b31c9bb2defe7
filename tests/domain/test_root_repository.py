"""Root entities in an application: what is stored of them, found, refused and told to handlers, on both databases."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from cqrs_fastapi import (
    CQRS,
    Changed,
    Command,
    ConcurrencyError,
    Created,
    Deleted,
    DeletedError,
    DomainError,
    Entity,
    EntitySet,
    Event,
    EventStore,
    NotFoundError,
    Page,
    Projection,
    Query,
    Repository,
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
from cqrs_fastapi.domain.finding import streaming
from cqrs_fastapi.errors import ReadOnlyError, RegistrationError, StreamDeletedError
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.testing import created

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


class Order(RootEntity):
    total: Tracked[int]


class Newer(RootEntity, name="Product"):
    """The same with a field more."""

    price: Tracked[int]
    weight: Tracked[int] = tracked(default=7)


class Parcel(RootEntity, topic="parcels"):
    weight: Tracked[int]


Products = RootRepository[Product]


class Do(Command[None]):
    """Whatever the test wants done with the products of one unit of work."""

    what: str


class Look(Query[None]):
    what: str


class LookBesideSession(Query[None]):
    pass


class Append(Command[None]):
    pass


class Noted(Event):
    pass


class Told:
    """Handlers that write down what they are told."""

    def __init__(self) -> None:
        self.seen: dict[str, list[object]] = {}

    def of(self, what: str) -> list[object]:
        return self.seen.get(what, [])

    def _note(self, what: str, value: object) -> None:
        self.seen.setdefault(what, []).append(value)

    async def created(self, event: Created[Product]) -> None:
        self._note("created", event.fields.price)

    async def price(self, event: Changed[Product, int]) -> None:
        self._note("price", event.value)

    async def tag(self, event: Changed[Product, Tag]) -> None:
        self._note("tag", (event.action, event.value.name))

    async def gone(self, event: Changed[Product, Tag]) -> None:
        self._note("gone", event.value.name)

    async def any_change(self, event: Updated[Product]) -> None:
        self._note("any", event.field)

    async def deleted(self, event: Deleted[Product]) -> None:
        self._note("deleted", event.id)


class Prices(Projection):
    seen: ClassVar[list[tuple[str, int | None]]] = []

    @on(Created[Product])
    async def began(self, event: Created[Product]) -> None:
        self.seen.append(("created", event.fields.price))

    @on(Product.price)
    async def changed(self, event: Changed[Product, int]) -> None:
        self.seen.append(("price", event.value))

    @on(Deleted[Product])
    async def ended(self, event: Deleted[Product]) -> None:
        self.seen.append(("deleted", None))


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

        @self.cqrs.handles(LookBesideSession)
        async def look_beside(
            query: LookBesideSession, products: RootRepository[Product], session: AsyncSession
        ) -> None:
            await session.connection()
            await self._work(products)

    async def do(self, work: Callable[[Products], Awaitable[None]]) -> None:
        self._work = work
        await self.cqrs.mediator.send(Do(what=""))

    async def look(self, work: Callable[[Products], Awaitable[None]]) -> None:
        self._work = work
        await self.cqrs.mediator.send(Look(what=""))

    async def look_beside_session(self, work: Callable[[Products], Awaitable[None]]) -> None:
        self._work = work
        await self.cqrs.mediator.send(LookBesideSession())

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
                text("SELECT type FROM cqrs_events WHERE stream = :stream ORDER BY version"),
                {"stream": f"Product-{id}"},
            )
            return list(rows.scalars())

    async def execute(self, statement: str) -> None:
        async with self.cqrs.database.engine.begin() as connection:
            await connection.execute(text(statement))

    @asynccontextmanager
    async def reopened(self) -> AsyncIterator[None]:
        """With the handlers that were bound meanwhile."""
        await self.cqrs.close()
        await self.cqrs.open()
        yield

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
    product_id = await shop.created(price=3)

    async def change(products: Products) -> None:
        product = await products.get(product_id)
        product.tags.add(Tag(name="new"))
        product.price = 5
        product.sizes.append(38)

    await shop.do(change)
    assert await shop.stored(product_id) == [
        "ProductCreated",
        "ProductUpdated.price",
        "ProductUpdated.tags.create",
        "ProductUpdated.sizes",
    ]

    async def look(products: Products) -> None:
        product = await products.get(product_id)
        assert (product.price, list(product.tags), product.sizes) == (5, [Tag(name="new")], [38])
        assert product.version == 4
        assert product.created_at < product.updated_at <= datetime.now(UTC)
        assert await products.find(Product.price == 5) == Page((product,), None)
        assert len(await products.find(Product.price == 3)) == 0

    await shop.look(look)


async def test_a_change_of_nothing_stores_nothing(shop: Shop) -> None:
    product_id = await shop.created(price=3, sizes=[1])

    async def change_nothing(products: Products) -> None:
        product = await products.get(product_id)
        product.price = 3
        product.sizes.append(2)
        product.sizes.pop()
        products.update(product, title="")

    await shop.do(change_nothing)
    assert await shop.stored(product_id) == ["ProductCreated"]


async def test_one_is_created_with_an_id_of_its_own_or_the_callers(shop: Shop) -> None:
    mine = uuid4()

    async def create(products: Products) -> None:
        first, second = products.create(price=1), products.create(id=mine, price=2)
        assert second.id == mine != first.id
        assert (first.version, first.price, first.title) == (0, 1, "")
        assert first.created_at == first.updated_at
        assert await products.get(mine) is second
        times.append(second.created_at)

    async def look(products: Products) -> None:
        product = await products.get(mine)
        assert (product.version, product.created_at, product.updated_at) == (1, times[0], times[0])

    times: list[datetime] = []
    await shop.do(create)
    await shop.look(look)


@pytest.mark.parametrize("name", ["version", "created_at", "updated_at", "deleted_at"])
async def test_what_the_library_keeps_cannot_be_given(shop: Shop, name: str) -> None:
    with pytest.raises(TypeError, match=f"Product.{name} is kept by the library and cannot be given"):
        await shop.created(**{name: 1})
    assert await shop.rows() == 0


async def test_one_that_lacks_a_field_is_not_created(shop: Shop) -> None:
    async def create(products: Products) -> None:
        products.create(title="shoe")

    with pytest.raises(TypeError, match="a new Product has no price"):
        await shop.do(create)


async def test_one_that_was_made_by_hand_is_saved(shop: Shop) -> None:
    product = Product(uuid4())
    product.price = 3

    async def save(products: Products) -> None:
        products.save(product)

    await shop.do(save)
    assert await shop.stored(product.id) == ["ProductCreated"]


async def test_one_that_nobody_begins_is_not_created(shop: Shop) -> None:
    async def begin(products: Products) -> None:
        first, second = await products.get_or_new(UUID(int=1)), await products.get_or_new(UUID(int=2))
        second.price = 3
        assert not first.exists
        with pytest.raises(NotFoundError):
            await products.get(first.id)
        assert [found.id for found in await products.find()] == [second.id]

    await shop.do(begin)
    assert await shop.stored(UUID(int=1)) == []
    assert await shop.stored(UUID(int=2)) == ["ProductCreated"]


async def test_a_deleted_one_is_another_error_than_one_that_never_was(shop: Shop) -> None:
    product_id = await shop.created()

    async def delete(products: Products) -> None:
        product = await products.get(product_id)
        products.delete(product)
        for get in (products.get, products.get_or_new):
            with pytest.raises(DeletedError, match="was deleted just now"):
                await get(product_id)
        with pytest.raises(DeletedError):
            products.update(product, price=2)
        assert len(await products.find()) == 0

    async def look(products: Products) -> None:
        for attempt in (products.get(product_id), products.get_all([product_id]), products.get_or_new(product_id)):
            with pytest.raises(DeletedError) as deleted:
                await attempt
            assert deleted.value.deleted_at is not None
        with pytest.raises(NotFoundError):
            await products.get(uuid4())
        assert len(await products.find()) == 0

    await shop.do(delete)
    assert await shop.stored(product_id) == ["ProductCreated", "ProductDeleted"]
    await shop.look(look)
    with pytest.raises(ConcurrencyError):
        await shop.created(id=product_id)


def reads_of(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each reading work that the database is given from now on; those of rows are one statement each."""
    reads: list[object] = []
    database = shop.cqrs.database
    for name in ("read", "read_few"):
        monkeypatch.setattr(database, name, counted(getattr(database, name), reads))
    return reads


def counted(read: Callable[[object], object], reads: list[object]) -> Callable[[object], object]:
    def count(work: object) -> object:
        reads.append(work)
        return read(work)

    return count


async def test_many_are_loaded_by_one_statement(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [await shop.created(price=price) for price in range(5)]

    async def load(products: Products) -> None:
        held = await products.get(ids[2])
        held.price = 9
        reads = reads_of(shop, monkeypatch)
        found = await products.get_all([*reversed(ids), ids[0]])
        assert len(reads) == 1
        assert [product.price for product in found] == [4, 3, 9, 1, 0, 0]
        assert found[2] is held
        assert found[4] is found[5]
        with pytest.raises(NotFoundError):
            await products.get_all([ids[0], uuid4()])

    await shop.do(load)


async def test_a_search_sees_what_the_unit_of_work_has_changed_itself(shop: Shop) -> None:
    ids = [await shop.created(price=price, title=f"t{price}") for price in (1, 2, 3, 4)]

    async def find(products: Products) -> None:
        (await products.get(ids[0])).price = 7
        products.delete(await products.get(ids[1]))
        new = products.create(price=8)
        held = await products.get(ids[2])
        ordering = Product.price.descending()
        assert [product.price for product in await products.find(ordering=ordering)] == [8, 7, 4, 3]
        assert [product.price for product in await products.find(Product.price > 6, ordering=ordering)] == [8, 7]
        assert list(await products.find(Product.price == 3)) == [held]
        first = await products.find(ordering=ordering, limit=3)
        second = await products.find(ordering=ordering, limit=3, after=first.next)
        assert [product.price for product in (*first, *second)] == [8, 7, 4, 3]
        assert (first[0], second.next) == (new, None)
        assert [product.price async for product in products.stream(ordering=ordering)] == [8, 7, 4, 3]

    await shop.do(find)


async def test_what_was_found_is_changed_and_stored(shop: Shop) -> None:
    ids = {await shop.created(price=price) for price in (1, 2, 3)}

    async def raise_prices(products: Products) -> None:
        for product in await products.find(Product.price >= 2):
            product.price += 10
        async for product in products.stream(Product.price < 2):
            product.price += 20

    async def look(products: Products) -> None:
        assert {product.id for product in await products.find()} == ids
        assert sorted([product.price for product in await products.find()]) == [12, 13, 21]

    await shop.do(raise_prices)
    await shop.look(look)


def checked_out(shop: Shop) -> list[int]:
    """How many connections of the pool were in use, at each time that one was taken."""
    counts, pool = [0], shop.cqrs.database.engine.pool
    event.listen(pool, "checkout", lambda *_: counts.append(pool.checkedout()))  # type: ignore[attr-defined]  # a queue
    return counts


async def test_a_stream_gives_all_of_them_as_they_were_when_it_began(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "AT_ONCE", 2)
    for price in range(5):
        await shop.created(price=price)

    async def look(products: Products) -> None:
        ordering, prices = Product.price.ascending(), []
        async for product in products.stream(ordering=ordering):
            prices.append(product.price)
            if len(prices) == 1:
                await shop.created(price=9)
        assert prices == [0, 1, 2, 3, 4]

    await shop.look(look)


async def test_a_stream_beside_a_session_goes_by_pages_in_its_transaction(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "AT_ONCE", 2)
    for price in range(5):
        await shop.created(price=price)

    async def look(products: Products) -> None:
        ordering = Product.price.ascending()
        assert [product.price async for product in products.stream(ordering=ordering)] == [0, 1, 2, 3, 4]

    connections = checked_out(shop)
    await shop.look_beside_session(look)
    assert max(connections) == 1


async def test_a_refreshed_one_is_what_is_stored(shop: Shop) -> None:
    product_id = await shop.created(price=3)

    async def refresh(products: Products) -> None:
        product = await products.get(product_id)
        product.update(price=9, sizes=[1])
        await products.refresh(product)
        assert (product.price, product.sizes) == (3, [])
        product.title = "kept"
        with pytest.raises(NotFoundError):
            await products.refresh(Product(uuid4()))

    await shop.do(refresh)
    assert await shop.stored(product_id) == ["ProductCreated", "ProductUpdated.title"]


async def test_a_query_may_change_nothing(shop: Shop) -> None:
    product_id = await shop.created()

    async def change(products: Products) -> None:
        (await products.get(product_id)).price = 9

    with pytest.raises(ReadOnlyError, match="a query recorded"):
        await shop.look(change)
    assert await shop.stored(product_id) == ["ProductCreated"]


# --- concurrency ---


async def test_a_version_that_the_caller_names_must_be_the_present_one(shop: Shop) -> None:
    product_id = await shop.created()

    async def look(products: Products) -> None:
        assert (await products.get(product_id, expected_version=1)).version == 1
        with pytest.raises(ConcurrencyError) as conflict:
            await products.get(product_id, expected_version=2)
        assert not conflict.value.retryable

    await shop.look(look)


@pytest.mark.parametrize("reach", ["get", "get_all", "find", "stream"])
async def test_of_two_writers_one_decides_again_and_no_update_is_lost(shop: Shop, reach: str) -> None:
    product_id = await shop.created(price=0)
    both, decisions = asyncio.Barrier(2), 0

    async def reached(products: Products) -> Product:
        if reach == "get":
            return await products.get(product_id)
        if reach == "get_all":
            return (await products.get_all([product_id]))[0]
        if reach == "find":
            return (await products.find())[0]
        return await anext(products.stream())

    async def add_one(products: Products) -> None:
        nonlocal decisions
        decisions += 1
        product = await reached(products)
        if decisions <= 2:
            await both.wait()
        product.price += 1

    async def look(products: Products) -> None:
        assert (await products.get(product_id)).price == 2
        assert [found.price for found in await products.find()] == [2]

    await asyncio.gather(shop.do(add_one), shop.do(add_one))
    assert decisions == 3
    assert await shop.stored(product_id) == ["ProductCreated", "ProductUpdated.price", "ProductUpdated.price"]
    await shop.look(look)


async def test_one_that_was_loaded_before_another_change_cannot_be_saved(shop: Shop) -> None:
    product_id = await shop.created(price=0)
    kept: list[Product] = []

    async def load(products: Products) -> None:
        kept.append(await products.get(product_id))

    async def save(products: Products) -> None:
        products.update(kept[0], price=5)

    async def change(products: Products) -> None:
        (await products.get(product_id)).price = 1

    await shop.look(load)
    await shop.do(change)
    with pytest.raises(ConcurrencyError):
        await shop.do(save)
    assert await shop.stored(product_id) == ["ProductCreated", "ProductUpdated.price"]


async def test_two_that_change_the_same_ones_in_other_orders_do_not_wait_in_a_circle(shop: Shop) -> None:
    ids = [await shop.created(price=0) for _ in range(20)]

    def change(order: list[UUID]) -> Callable[[Products], Awaitable[None]]:
        async def work(products: Products) -> None:
            for product_id in order:
                (await products.get(product_id)).price += 1

        return work

    async def look(products: Products) -> None:
        assert {product.price for product in await products.get_all(ids)} == {4}

    works = [change(ids), change(ids[::-1]), change(ids[5:] + ids[:5]), change(ids[10:] + ids[:10])]
    await asyncio.gather(*(shop.do(work) for work in works))
    await shop.look(look)


async def test_a_command_that_fails_leaves_neither_event_nor_row(shop: Shop) -> None:
    product_id = await shop.created(price=1)

    async def fail(products: Products) -> None:
        products.create(price=1)
        (await products.get(product_id)).price = 9
        raise DomainError("no")

    async def look(products: Products) -> None:
        assert [product.price for product in await products.find()] == [1]

    with pytest.raises(DomainError):
        await shop.do(fail)
    assert await shop.rows() == 1
    await shop.look(look)


async def test_a_conflict_of_another_stream_leaves_no_row(shop: Shop) -> None:
    product_id, attempts = await shop.created(price=1), 0

    shop.cqrs.register(Noted)

    @shop.cqrs.handles(Append)
    async def append(command: Append, products: RootRepository[Product], store: EventStore) -> None:
        nonlocal attempts
        attempts += 1
        (await products.get(product_id)).price = 9
        await store.append("elsewhere", [Noted()], 7)

    async def look(products: Products) -> None:
        product = await products.get(product_id)
        assert (product.price, product.version) == (1, 1)

    async with shop.reopened():
        with pytest.raises(ConcurrencyError):
            await shop.cqrs.mediator.send(Append())
        await shop.look(look)


DIES = """
import asyncio, os, sys
from uuid import UUID
sys.path.insert(0, sys.argv[1])
from test_root_repository import Shop
from cqrs_fastapi.unit_of_work import writing

async def main():
    shop = Shop(sys.argv[2])

    async def change(products):
        (await products.get(UUID(sys.argv[3]))).price = 9
        products.create(price=5)
        writing.append = lambda *_: os._exit(7)  # the rows are written, the events are not

    async with shop.cqrs.running(workers=()):
        await shop.do(change)

asyncio.run(main())
"""


async def test_a_process_that_dies_between_row_and_events_leaves_neither(shop: Shop, url: str) -> None:
    product_id = await shop.created(price=1)
    program = [sys.executable, "-c", DIES, str(Path(__file__).parent), url, str(product_id)]
    process = await asyncio.create_subprocess_exec(*program)
    assert await process.wait() == 7
    assert await shop.rows() == 1
    assert await shop.stored(product_id) == ["ProductCreated"]
    await shop.look(lambda products: expect_price(products, product_id, 1))


# --- rows ---


async def test_reading_costs_the_same_however_many_events_there_are(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    product_id = await shop.created(price=0)

    async def change(products: Products) -> None:
        (await products.get(product_id)).price += 1

    async def look(products: Products) -> None:
        reads = reads_of(shop, monkeypatch)
        assert (await products.get(product_id)).price == 10
        assert len(reads) == 1

    for _ in range(10):
        await shop.do(change)
    await shop.look(look)


async def test_one_without_a_row_is_folded_from_its_events_and_has_one_again(shop: Shop) -> None:
    product_id = await shop.created(price=3)

    async def change(products: Products) -> None:
        product = await products.get(product_id)
        assert (product.price, product.version) == (3, 1)
        product.price = 4

    await shop.execute("DELETE FROM cqrs_root_states")
    await shop.do(change)
    assert await shop.rows() == 1
    await shop.execute("UPDATE cqrs_root_states SET state = '{}'")  # which has no price, and cannot be read
    await shop.look(lambda products: expect_price(products, product_id, 4))


async def expect_price(products: Products, product_id: UUID, price: int) -> None:
    product = await products.get(product_id)
    assert product.price == price
    assert [found.price for found in await products.find()] == [price]


async def test_a_row_of_older_code_has_the_default_of_a_newer_field(shop: Shop, url: str) -> None:
    product_id = await shop.created(price=3)

    newer = CQRS(settings=Settings(database_url=url))
    seen: list[tuple[int, int, int]] = []

    @newer.handles(Do)
    async def weigh(command: Do, products: RootRepository[Newer]) -> None:
        product = await products.get(product_id)
        (found,) = await products.find()
        seen.append((product.price, product.weight, found.weight))
        product.weight = 8

    async with newer.running(workers=()):
        await newer.mediator.send(Do(what=""))
        await newer.mediator.send(Do(what=""))
    assert seen == [(3, 7, 7), (3, 8, 8)]
    assert await shop.stored(product_id) == ["ProductCreated", "ProductUpdated.weight"]
    await shop.look(lambda products: expect_price(products, product_id, 3))


async def test_deleting_the_stream_takes_the_row_with_it(shop: Shop) -> None:
    product_id = await shop.created(price=3)
    await shop.cqrs.streams.delete(f"Product-{product_id}")
    assert await shop.rows() == 0

    async def look(products: Products) -> None:
        with pytest.raises(StreamDeletedError):
            await products.get(product_id)

    await shop.look(look)


async def test_a_truncated_one_goes_on_behind_its_summary(shop: Shop) -> None:
    product_id = await shop.created(price=3)

    async def change(products: Products) -> None:
        (await products.get(product_id)).price += 1

    await shop.do(change)
    summary = created(Product, id=product_id, price=4)
    await shop.cqrs.streams.truncate(f"Product-{product_id}", summary, expected_version=2)
    await shop.look(lambda products: expect_price(products, product_id, 4))
    await shop.do(change)
    assert await shop.stored(product_id) == ["ProductCreated", "ProductUpdated.price"]
    await shop.execute("DELETE FROM cqrs_root_states")
    await shop.do(change)
    await shop.look(lambda products: expect_price(products, product_id, 6))


# --- subscriptions ---


async def test_handlers_and_projections_subscribe_to_what_happens(url: str) -> None:
    shop, told = Shop(url), Told()
    cqrs = shop.cqrs
    cqrs.on(Created[Product])(told.created)
    cqrs.on(Product.price)(told.price)
    cqrs.on(Product.tags)(told.tag)
    cqrs.on(Product.tags.deleted)(told.gone)
    cqrs.on(Updated[Product])(told.any_change)
    cqrs.on(Deleted[Product])(told.deleted)
    cqrs.projections.include(Prices)
    Prices.seen.clear()
    async with cqrs.running(workers=["consumer"]):
        product_id = await shop.created(price=1, tags=[Tag(name="old")])

        async def change(products: Products) -> None:
            (await products.get(product_id)).update(price=2, tags=[Tag(name="new")], sizes=[1])

        async def delete(products: Products) -> None:
            products.delete(await products.get(product_id))

        await shop.do(change)
        await shop.do(delete)
        while sum(map(len, told.seen.values())) < 10 or len(Prices.seen) < 3:
            await asyncio.sleep(0.01)
    assert told.of("created") == [1]
    assert told.of("price") == [2]
    assert told.of("tag") == [("create", "new"), ("delete", "old")]
    assert told.of("gone") == ["old"]
    assert told.of("any") == ["price", "tags", "tags", "sizes"]
    assert Prices.seen == [("created", 1), ("price", 2), ("deleted", None)]


async def test_a_handler_in_the_transaction_may_change_roots_again(url: str) -> None:
    shop = Shop(url)

    @shop.cqrs.on(Product.price, when="in_transaction")
    async def keep_within_ten(event: Changed[Product, int], products: RootRepository[Product]) -> None:
        product = await products.get(event.id)
        assert product.price == event.value
        if event.value > 10:
            product.price = 10

    async with shop.cqrs.running(workers=()):
        product_id = await shop.created(price=1)

        async def change(products: Products) -> None:
            (await products.get(product_id)).price = 99

        await shop.do(change)
        assert await shop.stored(product_id) == ["ProductCreated", "ProductUpdated.price", "ProductUpdated.price"]
        await shop.look(lambda products: expect_price(products, product_id, 10))


async def test_what_has_a_topic_is_sent_as_it_is_stored(url: str) -> None:
    cqrs = CQRS(settings=Settings(database_url=url))

    @cqrs.handles(Do)
    async def send(command: Do, parcels: RootRepository[Parcel]) -> None:
        parcel = await parcels.get_or_new(UUID(int=7))
        parcel.weight = 1 if parcel.is_new else parcel.weight + 1

    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Do(what=""))
        await cqrs.mediator.send(Do(what=""))
        async with cqrs.database.engine.connect() as connection:
            rows = await connection.execute(text("SELECT type, topic FROM cqrs_outbox ORDER BY position"))
            assert [tuple(row) for row in rows] == [("ParcelCreated", "parcels"), ("ParcelUpdated.weight", "parcels")]


async def test_a_handler_of_another_roots_event_is_refused_at_the_start(url: str) -> None:
    cqrs = CQRS(settings=Settings(database_url=url))

    async def on_order(event: Changed[Order, int]) -> None: ...
    async def load(command: Do, products: Repository[Product]) -> None: ...
    async def load_no_root(query: Look, values: RootRepository[Tag]) -> None: ...  # type: ignore[type-var]  # as told

    cqrs.events.bind(Product.price, on_order)  # type: ignore[misc]  # which is what is wrong
    cqrs.requests.bind(Do, load)
    cqrs.requests.bind(Look, load_no_root)
    with pytest.raises(RegistrationError) as refused:
        await cqrs.open()
    assert "takes OrderUpdated and is bound to ProductUpdated_price" in str(refused.value)
    assert "Repository[Product] is asked for; write RootRepository[Product]" in str(refused.value)
    assert "that is no RootEntity; inherit from RootEntity" in str(refused.value)
