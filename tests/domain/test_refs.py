"""References: ids that can become the things themselves, in handlers and alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from dependency_injector import providers
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    CqrsContainer,
    Entity,
    EntitySet,
    Event,
    ExternalEntity,
    NotFoundError,
    Provides,
    Query,
    Ref,
    RefResolver,
    Repository,
    RequestMediator,
    Settings,
    applies,
    resolve_refs,
    state,
)
from cqrs_fastapi.domain.refs import UnresolvedRefError
from cqrs_fastapi.errors import RegistrationError, ScopeClosedError
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Registered(Event):
    name: str


class Customer(Aggregate):
    name: str = ""

    @applies
    def on_registered(self, event: Registered) -> None:
        self.name = event.name


class Country(ExternalEntity):
    name: str


class Line(Entity):
    origin: Ref[Country]


class Placed(Event):
    customer: Ref[Customer]
    lines: EntitySet[Line] = EntitySet()


ADA, BOB = UUID(int=1), UUID(int=2)
FRANCE, SPAIN = (Country(id=UUID(int=n), version=1, name=name) for n, name in ((11, "France"), (12, "Spain")))


@dataclass
class Atlas:
    """Resolves countries, and remembers what it was asked."""

    asked: list[tuple[type, Sequence[UUID]]] = field(default_factory=list)
    known: dict[UUID, Any] = field(default_factory=lambda: {one.id: one for one in (FRANCE, SPAIN)})

    async def resolve(self, cls: type[T], ids: Sequence[UUID], /) -> Mapping[UUID, T]:
        self.asked.append((cls, ids))
        return {one: self.known[one] for one in ids if one in self.known}


def test_a_reference_is_written_as_its_id_and_read_from_it() -> None:
    placed = Placed(customer=Ref(Customer, ADA), lines=EntitySet([Line(id=BOB, origin=Ref.to(FRANCE))]))
    text = placed.model_dump_json()
    assert text == f'{{"customer":"{ADA}","lines":[{{"id":"{BOB}","origin":"{FRANCE.id}"}}]}}'
    again = Placed.model_validate_json(text)
    assert again == placed
    assert not again.lines[BOB].origin.resolved


@pytest.mark.parametrize("given", [FRANCE.id, str(FRANCE.id), FRANCE, Ref(Country, FRANCE.id)])
def test_a_reference_is_made_of_an_id_of_the_thing_or_of_another_reference(given: object) -> None:
    assert Line.model_validate({"origin": given}).origin == Ref(Country, FRANCE.id)


def test_the_thing_itself_makes_a_reference_that_is_resolved() -> None:
    assert Line(origin=FRANCE).origin.value is FRANCE  # type: ignore[arg-type]  # what validation takes


@pytest.mark.parametrize("given", ["no id", 5, None, Ref(Customer, ADA), Customer(ADA)])
def test_what_is_no_reference_to_the_class_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        Line.model_validate({"origin": given})


def test_a_reference_that_does_not_say_to_what_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"write: Ref\[Customer\]"):

        class Vague(BaseModel):
            origin: Ref  # type: ignore[type-arg]  # the fault under test


def test_a_reference_to_a_subclass_is_one_to_the_class() -> None:
    class Island(Country):
        pass

    island = Island(id=uuid4(), version=1, name="Crete")
    origin = Line.model_validate({"origin": Ref.to(island)}).origin
    assert (origin, origin.value) == (Ref(Country, island.id), island)


def test_references_are_equal_and_hashed_by_class_and_id_whether_they_are_resolved_or_not() -> None:
    assert Ref(Country, FRANCE.id) == Ref.to(FRANCE)
    assert len({Ref(Country, FRANCE.id), Ref.to(FRANCE), Ref(Country, SPAIN.id)}) == 2
    assert Ref[Any](Customer, FRANCE.id) != Ref.to(FRANCE)


def test_the_schema_of_a_reference_is_that_of_an_id() -> None:
    assert TypeAdapter(Ref[Country]).json_schema() == {"type": "string", "format": "uuid"}


def test_a_reference_that_is_not_resolved_has_no_value() -> None:
    ref = Ref(Country, FRANCE.id)
    assert not ref.resolved
    with pytest.raises(UnresolvedRefError, match=rf"Ref\(Country, {FRANCE.id}\) is not resolved; write: await"):
        _ = ref.value


async def test_a_reference_is_resolved_once_and_again_by_force() -> None:
    atlas, ref = Atlas(), Ref(Country, FRANCE.id)
    assert await ref.resolve(atlas) is FRANCE
    assert await ref.resolve(atlas) is FRANCE
    assert (ref.resolved, ref.value, len(atlas.asked)) == (True, FRANCE, 1)
    atlas.known[FRANCE.id] = later = FRANCE.model_copy(update={"version": 2})
    assert await ref.resolve(atlas, force=True) is later


async def test_references_anywhere_in_a_thing_are_resolved_by_one_question_for_each_class() -> None:
    @dataclass
    class Parcel:
        lines: list[Line]
        to: tuple[Ref[Country], ...]
        by_name: dict[str, Ref[Country]]
        kinds: frozenset[Ref[Customer]]

    class Basket(Aggregate):
        lines: EntitySet[Line] = state(EntitySet)

    basket = Basket(uuid4())
    basket.lines.add(Line(origin=Ref(Country, FRANCE.id)))
    parcel = Parcel(
        [Line(origin=Ref(Country, SPAIN.id))],
        (Ref(Country, FRANCE.id),),
        {"origin": Ref(Country, SPAIN.id)},
        frozenset({Ref(Customer, ADA)}),
    )
    atlas = Atlas()
    atlas.known[ADA] = ada = Customer(ADA)
    await resolve_refs([parcel, basket], atlas)
    assert {(cls, frozenset(ids), len(ids)) for cls, ids in atlas.asked} == {
        (Country, frozenset({FRANCE.id, SPAIN.id}), 2),
        (Customer, frozenset({ADA}), 1),
    }
    assert [line.origin.value for line in (*parcel.lines, *basket.lines)] == [SPAIN, FRANCE]
    assert (parcel.to[0].value, parcel.by_name["origin"].value) == (FRANCE, SPAIN)
    assert [one.value for one in parcel.kinds] == [ada]


async def test_things_that_hold_each_other_are_walked_once() -> None:
    @dataclass
    class Knot:
        origin: Ref[Country]
        others: list[Knot]

    one = Knot(Ref(Country, FRANCE.id), [])
    one.others.append(Knot(Ref(Country, SPAIN.id), [one]))
    atlas = Atlas()
    await resolve_refs(one, atlas)
    assert [len(ids) for _, ids in atlas.asked] == [2]


async def test_what_is_missing_is_told_with_its_class_and_all_ids() -> None:
    refs = [Ref(Country, one) for one in (FRANCE.id, ADA, BOB)]
    with pytest.raises(NotFoundError) as missing:
        await resolve_refs(refs, Atlas())
    assert (missing.value.kind, missing.value.identifier) == ("Country", f"{ADA}, {BOB}")
    assert [ref.resolved for ref in refs] == [True, False, False]


async def test_nobody_is_asked_where_there_is_nothing_to_resolve() -> None:
    await resolve_refs([Ref.to(FRANCE), "text", 5, None])


async def test_outside_of_a_handler_a_resolver_must_be_given() -> None:
    with pytest.raises(UnresolvedRefError, match=r"await ref\.resolve\(your_resolver\)"):
        await Ref(Country, FRANCE.id).resolve()


class Register(Command[None]):
    customer: UUID
    name: str


class NameOf(Query[str]):
    customer: Ref[Customer]


class NameOfBoth(Query[list[str]]):
    customers: tuple[Ref[Customer], Ref[Customer]]


class OriginOf(Query[str]):
    line: Line


class Linger(Command[None]):
    customer: Ref[Customer]


left_behind: list[Any] = []


def build(url: str, container: CqrsContainer | None = None) -> CQRS:
    cqrs = CQRS(container=container, settings=None if container else Settings(database_url=url))

    @cqrs.handles(Register)
    async def register(command: Register, customers: Repository[Customer]) -> None:
        customer = await customers.get_or_new(command.customer)
        customer.record(Registered(name=command.name))

    @cqrs.handles(NameOf)
    async def name_of(query: NameOf, customers: Repository[Customer]) -> str:
        found = await query.customer.resolve()
        assert found is await customers.get(query.customer.id)  # it is the one of this unit of work
        return found.name

    @cqrs.handles(NameOfBoth)
    async def name_of_both(query: NameOfBoth, mediator: RequestMediator) -> list[str]:
        return [await mediator.send(NameOf(customer=one)) for one in query.customers]

    @cqrs.handles(OriginOf)
    async def origin_of(query: OriginOf, _session: AsyncSession) -> str:
        await resolve_refs(query)
        return query.line.origin.value.name

    @cqrs.handles(Linger)
    async def linger(command: Linger, _customers: Repository[Customer]) -> None:
        left_behind.append(command.customer.resolve())

    return cqrs


@pytest.fixture
async def cqrs(database_url: str) -> AsyncIterator[CQRS]:
    cqrs = build(database_url)
    await migrated(cqrs)
    async with cqrs.running(workers=()):
        yield cqrs


async def migrated(cqrs: CQRS) -> None:
    engine = cqrs.container.database().engine
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)


async def test_in_a_handler_aggregates_of_the_service_are_found_by_its_unit_of_work(cqrs: CQRS) -> None:
    await cqrs.mediator.send(Register(customer=ADA, name="Ada"))
    await cqrs.mediator.send(Register(customer=BOB, name="Bob"))
    assert await cqrs.mediator.send(NameOf(customer=Ref(Customer, ADA))) == "Ada"
    both = NameOfBoth(customers=(Ref(Customer, ADA), Ref(Customer, BOB)))
    assert await cqrs.mediator.send(both) == ["Ada", "Bob"]
    with pytest.raises(NotFoundError, match="Customer"):
        await cqrs.mediator.send(NameOf(customer=Ref(Customer, uuid4())))


async def test_in_a_scope_of_a_script_they_are_found_too_and_after_it_no_more(cqrs: CQRS) -> None:
    async with cqrs.scope() as scope:
        await scope.send(Register(customer=ADA, name="Ada"))
        assert (await Ref(Customer, ADA).resolve()).name == "Ada"
    with pytest.raises(UnresolvedRefError):
        await Ref(Customer, ADA).resolve()


async def test_what_is_no_aggregate_needs_a_resolver_of_the_application_s_own(cqrs: CQRS) -> None:
    with pytest.raises(UnresolvedRefError, match=r"Country is no aggregate.*Provides\[RefResolver\]"):
        await cqrs.mediator.send(OriginOf(line=Line(origin=Ref(Country, FRANCE.id))))


async def test_a_resolver_of_the_container_takes_the_place_of_the_built_in_one(sqlite_url: str) -> None:
    atlas = Atlas()

    class Container(CqrsContainer):
        settings = providers.Object(Settings(database_url=sqlite_url))
        refs: Provides[RefResolver] = providers.Object(atlas)

    cqrs = build(sqlite_url, Container())
    async with cqrs.running(workers=()):
        assert await cqrs.mediator.send(OriginOf(line=Line(origin=Ref(Country, SPAIN.id)))) == "Spain"
        other = Atlas(known={SPAIN.id: SPAIN.model_copy(update={"name": "España"})})
        with cqrs.override(RefResolver).by(other):
            assert await cqrs.mediator.send(OriginOf(line=Line(origin=Ref(Country, SPAIN.id)))) == "España"
        assert await cqrs.mediator.send(OriginOf(line=Line(origin=Ref(Country, SPAIN.id)))) == "Spain"


async def test_a_resolver_that_cannot_be_made_is_told_at_the_start(sqlite_url: str) -> None:
    class Lost:
        def __init__(self, map_of_the_world: bytes) -> None:
            pass

    class Container(CqrsContainer):
        settings = providers.Object(Settings(database_url=sqlite_url))
        refs: Provides[RefResolver] = providers.Factory(Lost)

    with pytest.raises(RegistrationError, match="map_of_the_world"):
        async with build(sqlite_url, Container()).running(workers=()):
            pass


async def test_a_reference_left_behind_by_its_message_is_resolved_by_nobody(cqrs: CQRS) -> None:
    async with cqrs.scope() as scope:
        await scope.send(Linger(customer=Ref(Customer, ADA)))
        held = scope
    with pytest.raises(UnresolvedRefError):
        await left_behind.pop()
    with pytest.raises(ScopeClosedError):
        held.require_open()
