"""What is promised of aggregates, of one transaction over several of them, and of the kit for tests, by the public API;
on both databases where there is one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from dependency_injector import providers
from pydantic import ValidationError
from sqlalchemy import Column, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    CqrsContainer,
    Decider,
    DomainError,
    Entity,
    EntitySet,
    Event,
    EventMediator,
    EventStore,
    ExternalEntity,
    Metadata,
    NotFoundError,
    Provides,
    Query,
    Ref,
    RefResolver,
    Repository,
    RequestHandler,
    RequestMediator,
    Settings,
    UnitOfWork,
    ValueObject,
    ValueObjectSet,
    applies,
    resolve_refs,
    state,
)
from cqrs_fastapi.errors import RegistrationError
from cqrs_fastapi.messages.metadata import Origin, enter, leave
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.testing import given, scenario

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Carrier(ExternalEntity):
    """Another service's."""

    name: str


class Price(ValueObject):
    cents: int
    currency: str = "EUR"


class Tag(ValueObject):
    text: str


class Line(Entity):
    product: str
    price: Price


class Ordered(Event):
    customer: Ref[Customer]
    carrier: Ref[Carrier]


class LineAdded(Event):
    line: Line


class LineChanged(Event):
    line: Line


class Tagged(Event):
    tags: ValueObjectSet[Tag]


class Order(Aggregate, category="order"):
    customer: Ref[Customer] | None = None
    carrier: Ref[Carrier] | None = None
    lines: EntitySet[Line] = state(EntitySet)
    tags: ValueObjectSet[Tag] = state(ValueObjectSet)

    def place(self, customer: Ref[Customer], carrier: Ref[Carrier], lines: Sequence[Line]) -> None:
        self.record(Ordered(customer=customer, carrier=carrier))
        for line in lines:
            self.record(LineAdded(line=line))

    def reprice(self, line_id: UUID, price: Price) -> None:
        self.record(LineChanged(line=self.lines[line_id].model_copy(update={"price": price})))

    def tag(self, *texts: str) -> None:
        self.record(Tagged(tags=ValueObjectSet(Tag(text=text) for text in texts)))

    @applies
    def on_ordered(self, event: Ordered) -> None:
        self.customer, self.carrier = event.customer, event.carrier

    @applies
    def on_line_added(self, event: LineAdded) -> None:
        self.lines.add(event.line)

    @applies
    def on_line_changed(self, event: LineChanged) -> None:
        self.lines.add(event.line)

    @applies
    def on_tagged(self, event: Tagged) -> None:
        self.tags |= event.tags


class Registered(Event):
    name: str


class Customer(Aggregate, category="customer"):
    name: str = ""

    @applies
    def on_registered(self, event: Registered) -> None:
        self.name = event.name


Ordered.model_rebuild()


class Deposited(Event):
    cents: int


class Withdrawn(Event):
    cents: int


class OverdrawnError(DomainError):
    code = "overdrawn"


class Deposit(Command[int]):
    account: UUID
    cents: int


class Withdraw(Command[int]):
    account: UUID
    cents: int


@dataclass(frozen=True)
class Balance:
    cents: int = 0


class Account(Decider[Balance], category="account"):
    """The pure form."""

    initial = Balance()

    @staticmethod
    def decide(state: Balance, command: Deposit | Withdraw) -> Iterable[Event]:
        match command:
            case Deposit(cents=cents):
                return [Deposited(cents=cents)]
            case Withdraw(cents=cents) if cents > state.cents:
                raise OverdrawnError(f"{state.cents} are there")
            case Withdraw(cents=cents):
                return [Withdrawn(cents=cents)]

    @staticmethod
    def evolve(state: Balance, event: Deposited | Withdrawn) -> Balance:
        sign = 1 if isinstance(event, Deposited) else -1
        return replace(state, cents=state.cents + sign * event.cents)


class Register(Command[None]):
    customer: UUID
    name: str


class PlaceOrder(Command[None]):
    order: UUID
    customer: Ref[Customer]
    carrier: Ref[Carrier]
    lines: list[Line]


class Reprice(Command[None]):
    order: UUID
    line: UUID
    price: Price


class Parcel(Query[str]):
    """Who gets what, and by whom it is carried."""

    order: UUID


class ReadAll(Query[list[Any]]):
    pass


class Transfer(Command[None]):
    source: UUID
    target: UUID
    cents: int
    note: str | None = None
    tolerant: bool = False


notes = Table("notes", MetaData(), Column("text", String, primary_key=True))

DHL = Carrier(id=UUID(int=7), version=3, name="DHL")
ADA, ORDER = UUID(int=1), UUID(int=2)


class Partners:
    """Resolves what belongs to other services, and customers; `asked` tells what it was asked at once."""

    asked: list[tuple[type, int]]

    def __init__(self) -> None:
        self.asked = []

    async def resolve(self, cls: type[Any], ids: Sequence[UUID], /) -> Mapping[UUID, Any]:
        self.asked.append((cls, len(ids)))
        known: dict[UUID, Any] = {DHL.id: DHL} if cls is Carrier else {one: Customer(one) for one in ids}
        return {one: known[one] for one in ids if one in known}


def build(container: CqrsContainer) -> CQRS:  # noqa: C901  # one function a handler
    cqrs = CQRS(container=container)

    @cqrs.handles(Register)
    async def register(command: Register, customers: Repository[Customer]) -> None:
        customer = await customers.get_or_new(command.customer)
        customer.record(Registered(name=command.name))

    @cqrs.handles(PlaceOrder)
    async def place_order(command: PlaceOrder, orders: Repository[Order]) -> None:
        order = await orders.get_or_new(command.order)
        order.place(command.customer, command.carrier, command.lines)
        order.tag("new", "new")

    @cqrs.handles(Reprice)
    async def reprice(command: Reprice, orders: Repository[Order]) -> None:
        (await orders.get(command.order)).reprice(command.line, command.price)

    @cqrs.handles(Parcel)
    async def parcel(query: Parcel, orders: Repository[Order]) -> str:
        order = await orders.get(query.order)
        assert order.customer is not None
        assert order.carrier is not None
        await order.customer.resolve()
        carrier = await order.carrier.resolve(force=False)
        prices = ", ".join(f"{line.product} {line.price.cents}" for line in order.lines)
        tags = ", ".join(tag.text for tag in order.tags)
        return f"{order.customer.value.name}: {prices} [{tags}] by {carrier.name}"

    @cqrs.handles(ReadAll)
    async def read_all(query: ReadAll, store: EventStore) -> list[Any]:
        return [(one.stream, one.event) async for one in store.read_all()]

    @cqrs.handles(Deposit)
    async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
        account = await accounts.get_or_new(command.account)
        account.execute(command)
        return account.state.cents

    @cqrs.handles(Withdraw)
    class WithdrawHandler(RequestHandler[Withdraw, int]):
        def __init__(self, accounts: Repository[Account]) -> None:
            self._accounts = accounts

        async def handle(self, command: Withdraw) -> int:
            account = await self._accounts.get_or_new(command.account)
            account.execute(command)
            return account.state.cents

    @cqrs.handles(Transfer)
    async def transfer(
        command: Transfer,
        mediator: RequestMediator,
        unit: UnitOfWork,
        session: AsyncSession,
        accounts: Repository[Account],
    ) -> None:
        await mediator.send(Deposit(account=command.target, cents=command.cents))
        if command.note is not None:
            await session.execute(insert(notes).values(text=command.note))
        if not command.tolerant:
            await mediator.send(Withdraw(account=command.source, cents=command.cents))
            return
        try:
            async with unit.savepoint():
                await session.execute(insert(notes).values(text="withdrawn"))
                await mediator.send(Withdraw(account=command.source, cents=1))
                await mediator.send(Withdraw(account=command.source, cents=command.cents))
        except OverdrawnError:
            (await accounts.get_or_new(command.source)).record(Deposited(cents=0))

    return cqrs


@dataclass
class Bank:
    cqrs: CQRS
    partners: Partners

    async def send(self, request: Any) -> Any:
        return await self.cqrs.mediator.send(request)

    async def stored(self) -> list[tuple[str, Event]]:
        """All events of no tenant, as (stream, event)."""
        found: list[tuple[str, Event]] = await self.send(ReadAll())
        return found

    async def metadata(self) -> list[dict[str, Any]]:
        """What is stored of each event's metadata, in the order of the store."""
        events = self.cqrs.container.database().tables.events
        columns = (events.c.message_id, events.c.tenant, events.c.meta)
        rows = await self.cqrs.container.database().read(
            lambda connection: connection.execute(select(*columns).order_by(events.c.position)).all()
        )
        return [{"message_id": str(row.message_id), "tenant": row.tenant, **as_object(row[2])} for row in rows]

    async def notes(self) -> list[str]:
        return list(
            await self.cqrs.container.database().read(
                lambda connection: connection.execute(select(notes.c.text).order_by(notes.c.text)).scalars().all()
            )
        )


def as_object(value: Any) -> dict[str, Any]:
    return json.loads(value) if isinstance(value, str) else dict(value)


@pytest.fixture
async def bank(database_url: str) -> AsyncIterator[Bank]:
    partners = Partners()

    class Container(CqrsContainer):
        settings = providers.Object(Settings(database_url=database_url))
        refs: Provides[RefResolver] = providers.Object(partners)

    cqrs = build(Container())
    engine = cqrs.container.database().engine
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        async with engine.begin() as connection:
            await connection.run_sync(notes.metadata.create_all)
        yield Bank(cqrs, partners)


async def test_aggregates_with_entities_values_sets_and_references_are_stored_and_loaded(bank: Bank) -> None:
    mug, cup = (Line(product=name, price=Price(cents=cents)) for name, cents in (("mug", 990), ("cup", 490)))
    carrier, customer = Ref(Carrier, DHL.id), Ref(Customer, ADA)
    await bank.send(PlaceOrder(order=ORDER, customer=customer, carrier=carrier, lines=[mug, cup]))
    await bank.send(Reprice(order=ORDER, line=mug.id, price=Price(cents=890)))

    assert await bank.send(Parcel(order=ORDER)) == ": mug 890, cup 490 [new] by DHL"
    assert bank.partners.asked == [(Customer, 1), (Carrier, 1)]
    stream, event = (await bank.stored())[0]
    assert (stream, event) == (f"order-{ORDER}", Ordered(customer=customer, carrier=carrier))
    assert event.model_dump_json() == f'{{"customer":"{ADA}","carrier":"{DHL.id}"}}'


async def test_aggregates_of_the_service_itself_are_what_references_lead_to_without_any_resolver(
    database_url: str,
) -> None:
    class Container(CqrsContainer):
        settings = providers.Object(Settings(database_url=database_url))

    class NameOf(Query[str]):
        customer: Ref[Customer]

    cqrs = build(Container())

    async def name_of(query: Any, customers: Repository[Customer]) -> str:
        return str((await query.customer.resolve()).name)

    cqrs.requests.bind(NameOf, name_of)
    engine = cqrs.container.database().engine
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Register(customer=ADA, name="Ada"))
        assert await cqrs.mediator.send(NameOf(customer=Ref(Customer, ADA))) == "Ada"
        with pytest.raises(NotFoundError, match=str(UUID(int=99))):
            await cqrs.mediator.send(NameOf(customer=Ref(Customer, UUID(int=99))))


async def test_aggregates_hold_references_that_are_resolved_by_one_question_for_each_class() -> None:
    partners = Partners()
    orders = [Order(uuid4()) for _ in range(3)]
    for order in orders:
        order.place(Ref(Customer, uuid4()), Ref(Carrier, DHL.id), [])
    await resolve_refs(orders, partners)
    assert sorted((cls.__name__, count) for cls, count in partners.asked) == [("Carrier", 1), ("Customer", 3)]
    assert {order.carrier.value for order in orders if order.carrier} == {DHL}


async def test_aggregates_in_the_pure_form_are_loaded_and_stored_as_any(bank: Bank) -> None:
    assert await bank.send(Deposit(account=ADA, cents=5)) == 5
    assert await bank.send(Withdraw(account=ADA, cents=3)) == 2
    with pytest.raises(OverdrawnError):
        await bank.send(Withdraw(account=ADA, cents=3))
    assert await bank.stored() == [(f"account-{ADA}", Deposited(cents=5)), (f"account-{ADA}", Withdrawn(cents=3))]


def test_aggregates_refuse_fields_that_would_hide_something_of_the_library() -> None:
    for name in ("id", "version", "record", "recorded", "stream", "replay", "is_new"):
        with pytest.raises(
            TypeError, match=f"{name} would hide an attribute of Aggregate; give the field another name"
        ):
            type("Hiding", (Aggregate,), {"__annotations__": {name: int}, name: 1})


def test_aggregates_may_have_fields_named_like_words_of_python() -> None:
    """They come from schemas of others; a message has an alias for such a name, and a state its own attribute."""

    class Classified(Event):
        kind: str

    order = type("Order", (Aggregate,), {"class_": "", "from_": None})
    assert order(uuid4()).class_ == ""
    assert Classified(kind="a").kind == "a"


async def test_aggregates_may_refer_to_each_other_in_a_circle(bank: Bank) -> None:
    one, other = Node(id=uuid4()), Node(id=uuid4())
    one.next, other.next = Ref.to(other), Ref.to(one)
    again = Node.model_validate_json(one.model_dump_json())
    assert again.next == Ref.to(other)
    assert one.next.value.next.value is one
    await resolve_refs([one, other])


class Node(Entity):
    next: Ref[Node] | None = None


class Dropped(Event):
    """Nothing makes one."""


class Missing(Event):
    pass


class Neglected(Order):
    @applies
    def on_dropped(self, event: Dropped) -> None: ...

    def lose(self) -> None:
        self.record(Missing())


class Faithful(Order, stored=(Dropped,)):
    @applies
    def on_dropped(self, event: Dropped) -> None: ...


async def test_aggregates_with_a_fold_that_is_missing_or_for_nothing_are_told_at_the_start(sqlite_url: str) -> None:
    cqrs = CQRS(settings=Settings(database_url=sqlite_url))
    cqrs.register(Neglected, Faithful)
    with pytest.raises(RegistrationError) as told:
        async with cqrs.running(workers=()):
            pass
    missing, superfluous = told.value.problems
    assert missing.startswith("Neglected.lose records Missing and Neglected has no fold for it; write: @applies")
    assert superfluous.startswith("Neglected.on_dropped applies Dropped, which nobody records; take the fold out, or")


def test_aggregates_whose_folds_contradict_each_other_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="applies Deposited twice"):

        class Twice(Aggregate):
            @applies
            def one(self, event: Deposited) -> None: ...

            @applies
            def two(self, event: Deposited) -> None: ...


def test_aggregates_are_made_of_values_and_entities_that_keep_their_promises() -> None:
    price = Price(cents=5)
    with pytest.raises(ValidationError, match="frozen"):
        price.cents = 6  # type: ignore[misc]  # the fault under test
    line = Line(product="mug", price=price)
    with pytest.raises(ValidationError, match="frozen"):
        line.id = uuid4()  # type: ignore[misc]  # as above
    with pytest.raises(ValidationError):
        line.price = "expensive"  # type: ignore[assignment]  # as above
    with pytest.raises(ValidationError):
        Carrier(id=uuid4(), version=0, name="DHL")


async def test_transactions_over_several_aggregates_are_all_or_nothing(bank: Bank) -> None:
    other = uuid4()
    await bank.send(Deposit(account=ADA, cents=5))
    with pytest.raises(OverdrawnError):
        await bank.send(Transfer(source=ADA, target=other, cents=9, note="paid"))
    assert await bank.stored() == [(f"account-{ADA}", Deposited(cents=5))]
    assert await bank.notes() == []

    await bank.send(Transfer(source=ADA, target=other, cents=4, note="paid"))
    assert sorted((await bank.stored())[1:], key=repr) == sorted(
        [(f"account-{other}", Deposited(cents=4)), (f"account-{ADA}", Withdrawn(cents=4))], key=repr
    )
    assert await bank.notes() == ["paid"]


async def test_transactions_over_several_aggregates_have_savepoints_where_asked_for(bank: Bank) -> None:
    other = uuid4()
    await bank.send(Deposit(account=ADA, cents=5))
    await bank.send(Transfer(source=ADA, target=other, cents=9, note="tried", tolerant=True))
    assert sorted((await bank.stored())[1:], key=repr) == sorted(
        [(f"account-{other}", Deposited(cents=9)), (f"account-{ADA}", Deposited(cents=0))], key=repr
    )
    assert await bank.notes() == ["tried"]


async def test_transactions_over_several_aggregates_record_metadata_on_every_event(bank: Bank) -> None:
    other, request = uuid4(), uuid4()
    await bank.send(Deposit(account=ADA, cents=5))  # of nobody, so in another stream than the tenant's below
    origin = Metadata(
        message_id=request,
        correlation_id="call-1",
        time=datetime.now(UTC),
        user="ada",
        tenant="north",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        headers={"campaign": "spring"},
    )
    token = enter(Origin(origin))
    try:
        await bank.send(Deposit(account=ADA, cents=5))
        await bank.send(Transfer(source=ADA, target=other, cents=4))
    finally:
        leave(token)
    first, *rest = await bank.metadata()
    assert (first["tenant"], "user" in first) == ("", False)
    assert len(rest) == 3
    for one in rest:
        assert (one["correlation-id"], one["user"], one["tenant"]) == ("call-1", "ada", "north")
        assert (one["traceparent"], one["campaign"]) == (origin.traceparent, "spring")
    causes = {one["causation-id"] for one in (first, *rest)}
    assert len(causes) == 4, "each was caused by a command of its own, the nested ones too"
    assert len({one["message_id"] for one in (first, *rest)}) == 4


def test_given_when_then_tells_aggregates_and_deciders_without_a_database() -> None:
    line = Line(product="mug", price=Price(cents=990))
    cheaper = line.model_copy(update={"price": Price(cents=890)})
    order = given(Order, LineAdded(line=line)).when(lambda it: it.reprice(line.id, Price(cents=890)))
    assert order.then(LineChanged(line=cheaper)).lines[line.id].price == Price(cents=890)
    given(Account, Deposited(cents=5)).when(Withdraw(account=ADA, cents=3)).then(Withdrawn(cents=3))
    given(Account).when(Withdraw(account=ADA, cents=3)).then_raises(OverdrawnError)


class Rates:
    """What a container provides."""

    async def bonus(self) -> int:
        raise NotImplementedError


class DoubledRates(Rates):
    async def bonus(self) -> int:
        return 2


async def reward(command: Deposit, accounts: Repository[Account], rates: Rates, events: EventMediator) -> int:
    account = await accounts.get_or_new(command.account)
    if account.state.cents == 0:
        account.record(Deposited(cents=command.cents * await rates.bonus()))
        await events.publish(Registered(name="rewarded"))
    return account.state.cents


async def test_given_when_then_tells_handlers_without_a_database() -> None:
    rewarding = scenario(reward).with_(Rates, DoubledRates())
    outcome = await rewarding.when(Deposit(account=ADA, cents=3), number_of_times=2)
    outcome.then(Deposited(cents=6), Registered(name="rewarded")).then_returns(6)
    known = await rewarding.given(Account, ADA, Deposited(cents=1)).when(Deposit(account=ADA, cents=3))
    known.then().then_returns(1)


async def test_given_when_then_shows_the_difference_of_events_when_it_fails() -> None:
    outcome = await scenario(reward).with_(Rates, DoubledRates()).when(Deposit(account=ADA, cents=3))
    with pytest.raises(AssertionError) as failure:
        outcome.then_of(Account, ADA, Deposited(cents=3))
    assert "- Deposited(cents=3)" in str(failure.value)
    assert "+ Deposited(cents=6)" in str(failure.value)


async def test_given_when_then_finds_out_what_is_not_idempotent() -> None:
    async def careless(command: Deposit, accounts: Repository[Account]) -> int:
        account = await accounts.get_or_new(command.account)
        return len(account.execute(command))

    outcome = await scenario(careless).when(Deposit(account=ADA, cents=3), number_of_times=2)
    with pytest.raises(AssertionError, match="other events were recorded than expected"):
        outcome.then(Deposited(cents=3))
