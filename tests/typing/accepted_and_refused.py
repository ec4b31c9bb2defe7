"""Checked by mypy --strict and by pyright, never run. A line that ends in `# E:` must be an error to both of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import assert_type
from uuid import UUID

import msgspec

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.entities import Entity, ValueObject
from cqrs_fastapi.domain.finding.conditions import Condition
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.domain.root_events import Changed, Created, Deleted, Updated
from cqrs_fastapi.domain.root_repository import Page, RootRepository
from cqrs_fastapi.domain.sets import EntitySet, ValueObjectSet
from cqrs_fastapi.domain.tracked import Tracked, tracked
from cqrs_fastapi.mediation.event_map import EventMap
from cqrs_fastapi.mediation.fallback import Fallback
from cqrs_fastapi.mediation.handlers import EventHandler, NextHandler, RequestHandler, StreamHandler
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.forms import command, event, query
from cqrs_fastapi.messages.requests import Command, Query, Request, StreamRequest
from cqrs_fastapi.projections.projection import Projection, on


class Deposit(Command[int]):
    amount: int


class GetOwner(Query[str]):
    account: UUID


class Rows(StreamRequest[bytes]):
    account: UUID


@command
@dataclass(frozen=True)
class Close(Request[None]):
    reason: str


@query
class GetLimits(msgspec.Struct, Request[list[int]], frozen=True):
    account: UUID


class Deposited(Event):
    amount: int


@event(name="account.closed")
@dataclass(frozen=True)
class Closed:
    reason: str


@event()
class Opened(msgspec.Struct, frozen=True):
    owner: str


class Mailer: ...


class Account(Aggregate):
    balance: int = 0


def use(*values: object) -> None: ...


# --- send and stream infer the result ---


async def sending(mediator: RequestMediator, account: UUID) -> None:
    assert_type(await mediator.send(Deposit(amount=1)), int)
    assert_type(await mediator.send(GetOwner(account=account)), str)
    assert_type(await mediator.send(GetLimits(account)), list[int])
    await mediator.send(Close("over"))
    text: str = await mediator.send(Deposit(amount=1))  # E:
    await mediator.send(Deposited(amount=1))  # E:
    await mediator.send(Rows(account=account))  # E:
    async for row in mediator.stream(Rows(account=account)):
        assert_type(row, bytes)
    mediator.stream(Deposit(amount=1))  # E:
    use(text)


# --- handlers of requests ---


class DepositHandler(RequestHandler[Deposit, int]):
    def __init__(self, mailer: Mailer) -> None: ...

    async def handle(self, command: Deposit, /) -> int:
        return command.amount


class NamedHandler(RequestHandler[GetOwner, str]):
    async def handle(self, question: GetOwner) -> str:
        return str(question.account)


class WrongResult(RequestHandler[Deposit, int]):
    async def handle(self, command: Deposit, /) -> str:  # E:
        return ""


class TextHandler(RequestHandler[Deposit, str]):
    async def handle(self, command: Deposit, /) -> str:
        return ""


async def deposit(command: Deposit, mailer: Mailer) -> int:
    return command.amount


async def deposit_as_text(command: Deposit) -> str:
    return ""


async def deposit_or_more(command: Deposit | GetOwner) -> bool:
    return True


async def get_owner(query: GetOwner, mailer: Mailer, *, limit: int = 3) -> str:
    return ""


async def close(command: Close) -> None: ...


async def get_limits(query: GetLimits) -> list[int]:
    return [1]


def not_async(command: Deposit) -> int:
    return 1


class Methods:
    async def deposit(self, command: Deposit) -> int:
        return 1

    async def owner(self, query: GetOwner) -> str:
        return ""


requests = RequestMap()
requests.bind(Deposit, DepositHandler)
requests.bind(Deposit, deposit)
requests.bind(Deposit, deposit_or_more)
requests.bind(Deposit, Methods().deposit)
requests.bind(GetOwner, NamedHandler)
requests.bind(GetOwner, get_owner)
requests.bind(Close, close)
requests.bind(GetLimits, get_limits)
requests.bind(Deposit, TextHandler)  # E:
requests.bind(Deposit, NamedHandler)  # E:
requests.bind(Deposit, deposit_as_text)  # E:
requests.bind(Deposit, get_owner)  # E:
requests.bind(Deposit, not_async)  # E:
requests.bind(Deposit, Methods().owner)  # E:
requests.bind(Close, deposit)  # E:
requests.bind(GetLimits, get_owner)  # E:
requests.bind(Deposited, deposit)  # E:
requests.bind(int, deposit)  # E:


# --- chains and fallbacks ---


async def first(command: Deposit, following: NextHandler[Deposit, int]) -> int:
    assert_type(await following(command), int)
    await following(GetOwner(account=UUID(int=1)))  # E:
    return 1


requests.bind(Deposit, [first, deposit])
requests.bind(Deposit, [first, DepositHandler])
requests.bind(Deposit, [DepositHandler, deposit])
requests.bind(Deposit, [first, deposit_as_text])  # E:
requests.bind(Deposit, [first, NamedHandler])  # E:
requests.bind(Deposit, Fallback(deposit, DepositHandler, on=(OSError,)))
requests.bind(GetOwner, Fallback(get_owner, NamedHandler, on=(OSError, ValueError)))
requests.bind(GetOwner, Fallback(deposit, deposit, on=(OSError,)))  # E:
requests.bind(Deposit, Fallback(deposit, deposit, on=(3,)))  # E:


# --- streams ---


class RowsHandler(StreamHandler[Rows, bytes]):
    async def handle(self, request: Rows, /) -> AsyncIterator[bytes]:
        yield b""


async def rows(request: Rows, mailer: Mailer) -> AsyncIterator[bytes]:
    yield b""


async def text_rows(request: Rows) -> AsyncIterator[str]:
    yield ""


requests.bind(Rows, RowsHandler)
requests.bind(Rows, rows)
requests.bind(Rows, text_rows)  # E:
requests.bind(Rows, deposit)  # E:
requests.bind(Deposit, RowsHandler)  # E:
requests.bind(Deposit, rows)  # E:


# --- the decorator ---


@requests.handles(Deposit)
async def decorated(command: Deposit, mailer: Mailer, *, limit: int = 3) -> int:
    return 1


@requests.handles(Rows)
async def decorated_rows(request: Rows) -> AsyncIterator[bytes]:
    yield b""


@requests.handles(Deposit)
class DecoratedHandler(RequestHandler[Deposit, int]):
    async def handle(self, command: Deposit, /) -> int:
        return 1


@requests.handles(Deposit)  # E:
async def wrongly_decorated(command: GetOwner) -> str:
    return ""


@requests.handles(Deposit)  # E:
class WronglyDecorated(RequestHandler[GetOwner, str]):
    async def handle(self, query: GetOwner, /) -> str:
        return ""


async def calling_what_was_decorated(mailer: Mailer) -> None:
    assert_type(await decorated(Deposit(amount=1), mailer, limit=4), int)
    await decorated(Deposit(amount=1))  # E:
    await decorated(GetOwner(account=UUID(int=1)), mailer)  # E:
    async for row in decorated_rows(Rows(account=UUID(int=1))):
        assert_type(row, bytes)
    kept: Callable[[Deposit, Mailer], Awaitable[int]] = decorated
    handler: type[RequestHandler[Deposit, int]] = DecoratedHandler
    task = asyncio.create_task(decorated(Deposit(amount=1), mailer))
    assert_type(await task, int)
    use(kept, handler)


# --- events ---


class SendMail(EventHandler[Deposited]):
    def __init__(self, mailer: Mailer) -> None: ...

    async def handle(self, event: Deposited, /) -> None: ...


async def on_closed(event: Closed, mailer: Mailer) -> None: ...


async def on_any(event: Event) -> None: ...


async def on_opened(event: Opened) -> None: ...


async def answers(event: Closed) -> int:
    return 1


events = EventMap()
events.bind(Deposited, SendMail)
events.bind(Deposited, SendMail, when="in_transaction")
events.bind(Deposited, on_any)
events.bind(Closed, on_closed)
events.bind(Opened, on_opened)
events.bind(Closed, SendMail)  # E:
events.bind(Deposited, on_closed)  # E:
events.bind(Closed, answers)  # E:
events.bind(Deposited, SendMail, when="sometimes")  # E:
events.bind(int, on_closed)  # E:


@events.on(Deposited)
async def decorated_event(event: Deposited, mailer: Mailer) -> None: ...


@events.on(Deposited)  # E:
async def wrongly_decorated_event(event: Closed) -> None: ...


async def calling_a_decorated_event_handler(mailer: Mailer) -> None:
    await decorated_event(Deposited(amount=1), mailer)
    await decorated_event(Closed(""), mailer)  # E:


# --- repositories and projections ---


async def loading(accounts: Repository[Account]) -> None:
    account = await accounts.get(UUID(int=1))
    assert_type(account, Account)
    assert_type((await accounts.get_or_new(UUID(int=1))).balance, int)
    accounts.add(Mailer())  # E:


async def loading_no_aggregate(mailers: Repository[Mailer]) -> None:  # E:
    ...


class Overview(Projection, version=1):
    @on(Deposited)
    async def deposited(self, event: Deposited, mailer: Mailer) -> None: ...

    @on(Closed)
    async def closed(self, event: Closed) -> None: ...

    @on(Deposited)  # E:
    async def wrong(self, event: Closed) -> None: ...


async def calling_a_projection(overview: Overview, mailer: Mailer) -> None:
    await overview.deposited(Deposited(amount=1), mailer)
    await overview.closed(Deposited(amount=1))  # E:


# --- root entities ---


class Tag(ValueObject):
    name: str


class Part(Entity):
    pieces: int


class Product(RootEntity, topic="products"):
    price: Tracked[int]
    stock: Tracked[int] = tracked(default=0)
    title: Tracked[str | None] = tracked(default=None)
    tags: Tracked[ValueObjectSet[Tag]] = tracked(default_factory=ValueObjectSet[Tag])
    parts: Tracked[EntitySet[Part]] = tracked(default_factory=EntitySet[Part])
    weight: Tracked[int] = tracked(default="heavy")  # E:


class Order(RootEntity):
    total: Tracked[int]


async def on_created(event: Created[Product]) -> None:
    assert_type(event.id, UUID)


async def on_updated(event: Updated[Product]) -> None:
    assert_type(event.field, str)


async def on_price(event: Changed[Product, int]) -> None:
    assert_type(event.value, int)


async def on_tag(event: Changed[Product, Tag]) -> None:
    assert_type(event.value, Tag)


async def on_part(event: Changed[Product, Part]) -> None:
    assert_type(event.value, Part)


async def on_deleted(event: Deleted[Product]) -> None: ...


events.bind(Created[Product], on_created)
events.bind(Updated[Product], on_updated)
events.bind(Product.price, on_price)
events.bind(Product.price, on_price, when="in_transaction")
events.bind(Product.price, on_updated)
events.bind(Product.tags, on_tag)
events.bind(Product.tags.created, on_tag)
events.bind(Product.parts.updated, on_part)
events.bind(Deleted[Product], on_deleted)
events.bind(Created[Order], on_created)  # E:
events.bind(Order.total, on_price)  # E:
events.bind(Product.title, on_price)  # E:
events.bind(Product.tags, on_price)  # E:
events.bind(Product.parts.deleted, on_tag)  # E:
events.bind(Product.price, on_created)  # E:
events.bind(Deleted[Product], on_created)  # E:


@events.on(Product.price)
async def decorated_price(event: Changed[Product, int], mailer: Mailer) -> None: ...


@events.on(Product.tags)  # E:
async def wrongly_decorated_tag(event: Changed[Product, int]) -> None: ...


class Prices(Projection):
    @on(Created[Product])
    async def began(self, event: Created[Product], mailer: Mailer) -> None: ...

    @on(Product.price)
    async def price(self, event: Changed[Product, int]) -> None: ...

    @on(Updated[Product])
    async def updated(self, event: Updated[Product]) -> None: ...

    @on(Product.tags)  # E:
    async def wrong_tag(self, event: Changed[Product, int]) -> None: ...


async def using_root_entities(products: RootRepository[Product]) -> None:
    product = await products.get(UUID(int=1))
    assert_type(product.price, int)
    assert_type(product.title, str | None)
    assert_type(product.tags, ValueObjectSet[Tag])
    product.price = 5
    product.price = "dear"  # E:
    assert_type(Product.price < 5, Condition)
    use(Product.price < "dear")  # E:
    assert_type(await products.find((Product.price < 5) & (Product.title == None)), Page[Product])  # noqa: E711  # as searches write it
    async for found in products.stream(Product.price < 5):
        assert_type(found, Product)
    assert_type(products.create(price=3), Product)
    assert_type((product.id, product.version), tuple[UUID, int])
    assert_type(Product.id == product.id, Condition)
    assert_type(Product.version > 3, Condition)
    use(Product.version > "3")  # E:
    products.delete(Mailer())  # E:


async def loading_no_root(accounts: RootRepository[Account]) -> None:  # E:
    ...
