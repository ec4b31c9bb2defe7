import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, Protocol

import pytest
from dependency_injector import containers, providers
from fastapi import Depends
from small_app import Session, SmallApp, Unit, started

from cqrs_fastapi.clock import Clock, SystemClock
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.handlers import RequestHandler
from cqrs_fastapi.mediation.providers import Provides
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.requests import Command

pytestmark = pytest.mark.anyio


class Ask(Command[Any]):
    pass


class Inner(Command[Any]):
    pass


class Gateway(Protocol):
    name: str


class Mailer:
    name = "mailer"


class CardGateway:
    def __init__(self, name: str = "card") -> None:
        self.name = name


class Base:
    pass


class Derived(Base):
    pass


async def app_of(handler: Any, container: Any = None, **more: Any) -> SmallApp:
    requests = RequestMap()
    requests.bind(Ask, handler)
    return await started(requests, container=container, **more)


async def answer(handler: Any, container: Any = None, **more: Any) -> Any:
    return await (await app_of(handler, container, **more)).mediator.send(Ask())


# --- what is found, and where ---


async def test_the_scope_gives_its_own_things() -> None:
    async def handler(  # noqa: PLR0917  # all of them at once
        request: Ask, session: Session, unit: Unit, mediator: RequestMediator, events: EventMediator, meta: Metadata
    ) -> Any:
        assert session is unit.session
        assert mediator is unit.scope.mediator
        assert events is unit.scope.event_mediator
        return meta

    assert isinstance(await answer(handler), Metadata)


async def test_a_provider_is_found_by_provides_by_its_functions_annotation_and_by_its_class() -> None:
    def make_mailer() -> Mailer:
        return Mailer()

    class Container(containers.DeclarativeContainer):
        gateway: Provides[Gateway] = providers.Singleton(CardGateway, "declared")
        mailer = providers.Factory(make_mailer)
        derived = providers.Factory(Derived)
        clock: Provides[Clock] = providers.Singleton(SystemClock)

    async def handler(request: Ask, gateway: Gateway, mailer: Mailer, derived: Derived, clock: Clock) -> Any:
        return gateway.name, type(mailer), type(derived), type(clock)

    assert await answer(handler, Container()) == ("declared", Mailer, Derived, SystemClock)


async def test_one_nominal_subclass_serves_and_the_exact_class_comes_first() -> None:
    class OnlyDerived(containers.DeclarativeContainer):
        derived = providers.Factory(Derived)

    class Both(containers.DeclarativeContainer):
        derived = providers.Factory(Derived)
        base = providers.Factory(Base)

    async def handler(request: Ask, base: Base) -> Any:
        return type(base)

    assert await answer(handler, OnlyDerived()) is Derived
    assert await answer(handler, Both()) is Base


async def test_a_default_serves_when_nothing_provides_the_type() -> None:
    async def handler(request: Ask, mailer: Mailer | None = None, *, limit: int = 7, untyped=3) -> Any:  # type: ignore[no-untyped-def]  # noqa: ANN001  # the case itself
        return mailer, limit, untyped

    assert await answer(handler) == (None, 7, 3)


async def test_a_handler_class_is_made_anew_for_each_message() -> None:
    class Container(containers.DeclarativeContainer):
        mailer = providers.Factory(Mailer)

    class Handler(RequestHandler[Ask, Any]):
        def __init__(self, mailer: Mailer, *, session: Session) -> None:
            self.made = (mailer, session)

        async def handle(self, request: Ask, /) -> Any:
            return self, *self.made

    app = await app_of(Handler, Container())
    first, second = await app.mediator.send(Ask()), await app.mediator.send(Ask())
    assert all(one is not other for one, other in zip(first, second, strict=True))


async def test_arguments_that_a_factory_leaves_open_are_resolved_by_type() -> None:
    @dataclass
    class Repository:
        session: Session
        table: str

    @dataclass
    class Service:
        repository: Repository
        mailer: Mailer
        retries: int = 3

    class Container(containers.DeclarativeContainer):
        mailer = providers.Singleton(Mailer)
        repository = providers.Factory(Repository, table="accounts")
        service = providers.Callable(Service)

    async def handler(request: Ask, service: Service, session: Session) -> Any:
        return service, session

    service, session = await answer(handler, Container())
    assert service.repository == Repository(session, "accounts")
    assert (type(service.mailer), service.retries) == (Mailer, 3)


async def test_options_of_a_configuration_and_attributes_of_others_are_given() -> None:
    class Container(containers.DeclarativeContainer):
        config = providers.Configuration()
        other = providers.Factory(CardGateway, name="other")
        gateway: Provides[Gateway] = providers.Factory(CardGateway, name=config.gateway.name)
        kept: Provides[Base] = providers.Singleton(CardGateway, name=config.gateway.name)
        copied: Provides[Derived] = providers.Factory(CardGateway, name=other.provided.name)
        chosen: Provides[Mailer] = providers.Selector(
            config.mode, a=providers.Factory(Mailer), b=providers.Factory(Base)
        )

    async def handler(request: Ask, gateway: Gateway, kept: Base, copied: Derived, chosen: Mailer) -> Any:
        return gateway.name, kept.name, copied.name, type(chosen)  # type: ignore[attr-defined]  # stands for any class

    container = Container()
    container.config.from_dict({"gateway": {"name": "configured"}, "mode": "a"})
    assert await answer(handler, container) == ("configured", "configured", "other", Mailer)


async def test_a_factory_sets_attributes_and_is_called_for_each_use() -> None:
    class Container(containers.DeclarativeContainer):
        mailer = providers.Factory(Mailer)

    Container.mailer.add_attributes(name="set")

    async def handler(request: Ask, one: Mailer, other: Mailer) -> Any:
        return one, other

    one, other = await answer(handler, Container())
    assert one is not other
    assert (one.name, Mailer.name) == ("set", "mailer")


# --- how long it lives ---


async def test_singletons_objects_and_resources_live_as_long_as_the_application() -> None:
    async def open_gateway() -> AsyncIterator[CardGateway]:
        yield CardGateway("resource")

    class Container(containers.DeclarativeContainer):
        mailer = providers.Singleton(Mailer)
        gateway = providers.Resource(open_gateway)
        base = providers.Object(Derived())

    async def handler(request: Ask, mailer: Mailer, gateway: CardGateway, base: Derived) -> Any:
        return mailer, gateway, base

    container = Container()
    await container.init_resources()
    app = await app_of(handler, container)
    first, second = await app.mediator.send(Ask()), await app.mediator.send(Ask())
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert first[1].name == "resource"
    await container.shutdown_resources()


async def test_a_coroutine_is_awaited_for_each_use_also_inside_of_other_providers() -> None:
    async def connect() -> Mailer:
        await asyncio.sleep(0)
        return Mailer()

    @dataclass
    class Service:
        mailer: Mailer

    async def open_base(mailer: Mailer) -> AsyncIterator[Base]:
        assert type(mailer) is Mailer
        yield Derived()

    class Container(containers.DeclarativeContainer):
        mailer = providers.Coroutine(connect)
        service = providers.Factory(Service, mailer=mailer)
        base = providers.Factory(open_base)

    async def handler(request: Ask, mailer: Mailer, service: Service, base: Base) -> Any:
        return mailer, service.mailer

    one, other = await answer(handler, Container())
    assert type(one) is type(other) is Mailer
    assert one is not other


class Log(list[str]):
    pass


def generators(log: Log) -> Any:
    """Two that are nested in one another: a sync one, and an async one that needs it."""

    def open_outer() -> Iterator[CardGateway]:
        log.append("outer open")
        try:
            yield CardGateway()
        except BaseException as error:
            log.append(f"outer saw {type(error).__name__}")
            raise
        finally:
            log.append("outer closed")

    async def open_inner(outer: CardGateway) -> AsyncIterator[Mailer]:
        log.append("inner open")
        try:
            yield Mailer()
        except BaseException as error:
            log.append(f"inner saw {type(error).__name__}")
            raise
        finally:
            await asyncio.sleep(0)
            log.append("inner closed")

    class Container(containers.DeclarativeContainer):
        outer = providers.Callable(open_outer)
        inner = providers.Factory(open_inner)

    return Container()


async def test_generators_live_once_in_a_scope_and_close_in_reverse_order_after_the_commit() -> None:
    log = Log()
    requests = RequestMap()

    @requests.handles(Ask)
    async def ask(request: Ask, inner: Mailer, outer: CardGateway, mediator: RequestMediator) -> Any:
        return (inner, outer), await mediator.send(Inner())

    @requests.handles(Inner)
    async def nested(request: Inner, inner: Mailer, outer: CardGateway) -> Any:
        return inner, outer

    app = await started(requests, container=generators(log))

    async def committing() -> None:
        log.append("commit")

    app.world.committing = committing
    first, second = await app.mediator.send(Ask())
    assert first == second
    assert log == ["outer open", "inner open", "commit", "inner closed", "outer closed"]


async def test_generators_see_the_error_of_the_handler() -> None:
    log = Log()

    async def handler(request: Ask, inner: Mailer) -> NoReturn:
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        await answer(handler, generators(log))
    assert log[2:] == ["inner saw PermissionError", "inner closed", "outer saw PermissionError", "outer closed"]


async def test_generators_close_when_the_time_is_over() -> None:
    log = Log()

    async def handler(request: Ask, inner: Mailer) -> Any:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await answer(handler, generators(log), timeout=0.01)
    assert log[2:] == ["inner saw TimeoutError", "inner closed", "outer saw TimeoutError", "outer closed"]


async def test_generators_close_although_the_caller_was_cancelled_and_see_nothing_of_it() -> None:
    log = Log()
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request: Ask, inner: Mailer) -> Any:
        reached.set()
        await go_on.wait()

    app = await app_of(handler, generators(log))
    caller = asyncio.get_running_loop().create_task(app.mediator.send(Ask()))
    await reached.wait()
    caller.cancel()
    await asyncio.wait([caller])
    go_on.set()
    await app.kernel.drain(5)
    assert log == ["outer open", "inner open", "inner closed", "outer closed"]


async def test_a_generator_closes_even_if_the_rollback_fails() -> None:
    log = Log()

    async def handler(request: Ask, inner: Mailer, unit: Unit) -> NoReturn:
        async def lost() -> None:
            raise ConnectionError("gone")

        unit.rollback = lost  # type: ignore[method-assign]  # a database that is gone
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        await answer(handler, generators(log))
    assert log[-1] == "outer closed"


async def test_a_generator_that_swallows_the_error_does_not_make_a_commit_of_it() -> None:
    def swallow() -> Iterator[Mailer]:
        try:
            yield Mailer()
        except PermissionError:
            return

    class Container(containers.DeclarativeContainer):
        mailer = providers.Factory(swallow)

    async def handler(request: Ask, mailer: Mailer) -> NoReturn:
        raise PermissionError("no")

    app = await app_of(handler, Container())
    with pytest.raises(PermissionError):
        await app.mediator.send(Ask())
    assert app.world.endings == ["rolled back"]


async def test_an_error_while_closing_after_the_commit_is_not_the_callers() -> None:
    def fragile() -> Iterator[Mailer]:
        yield Mailer()
        raise OSError("cannot close")

    class Container(containers.DeclarativeContainer):
        mailer = providers.Factory(fragile)

    async def handler(request: Ask, mailer: Mailer) -> Any:
        return "done"

    assert await answer(handler, Container()) == "done"


async def test_two_providers_of_one_generator_function_have_two_values() -> None:
    def open_gateway(name: str) -> Iterator[CardGateway]:
        yield CardGateway(name)

    class Container(containers.DeclarativeContainer):
        first: Provides[Base] = providers.Factory(open_gateway, "first")
        second: Provides[Derived] = providers.Factory(open_gateway, "second")

    async def handler(request: Ask, first: Base, second: Derived) -> Any:
        return first.name, second.name  # type: ignore[attr-defined]  # stands for any class

    assert await answer(handler, Container()) == ("first", "second")


async def test_sends_at_the_same_time_inside_of_one_scope_share_a_generators_value() -> None:
    opened = []

    async def open_mailer() -> AsyncIterator[Mailer]:
        opened.append(1)
        await asyncio.sleep(0)
        yield Mailer()

    class Container(containers.DeclarativeContainer):
        mailer = providers.Factory(open_mailer)

    requests = RequestMap()

    @requests.handles(Ask)
    async def ask(request: Ask, mediator: RequestMediator) -> Any:
        return await asyncio.gather(mediator.send(Inner()), mediator.send(Inner()))

    @requests.handles(Inner)
    async def inner(request: Inner, mailer: Mailer) -> Any:
        return mailer

    one, other = await (await started(requests, container=Container())).mediator.send(Ask())
    assert one is other
    assert opened == [1]


async def test_two_sends_at_the_same_time_have_two_sessions_and_two_generator_values() -> None:
    both = asyncio.Barrier(2)

    async def handler(request: Ask, session: Session, mailer: Mailer) -> Any:
        await both.wait()
        return session, mailer

    app = await app_of(handler, generators(Log()))
    first, second = await asyncio.gather(app.mediator.send(Ask()), app.mediator.send(Ask()))
    assert first[0] is not second[0]
    assert first[1] is not second[1]


# --- Depends ---


async def test_annotated_depends_works_nested_with_generators_and_everything_injected() -> None:
    log = Log()

    def tenant(metadata: Metadata) -> str:
        return f"tenant of {type(metadata).__name__}"

    async def cursor(tenant: Annotated[str, Depends(tenant)], session: Session) -> AsyncIterator[CardGateway]:
        log.append("open")
        yield CardGateway(tenant)
        log.append("closed")

    Tenant = Annotated[str, Depends(tenant)]  # noqa: N806  # an alias of a type

    async def handler(request: Ask, tenant: Tenant, cursor: Annotated[CardGateway, Depends(cursor)]) -> Any:
        log.append("handler")
        return tenant, cursor.name

    assert await answer(handler) == ("tenant of Metadata",) * 2
    assert log == ["open", "handler", "closed"]


async def test_a_dependency_is_called_once_for_a_handler_unless_it_says_otherwise() -> None:
    calls = []

    def number() -> int:
        calls.append(1)
        return len(calls)

    def twice(one: Annotated[int, Depends(number)]) -> int:
        return one * 2

    async def handler(
        request: Ask,
        one: Annotated[int, Depends(number)],
        two: Annotated[int, Depends(twice)],
        fresh: Annotated[int, Depends(number, use_cache=False)],
    ) -> Any:
        return one, two, fresh

    assert await answer(handler) == (1, 2, 2)


async def test_an_object_with_an_async_call_is_a_dependency() -> None:
    class Current:
        async def __call__(self) -> str:
            return "ann"

    async def handler(request: Ask, user: Annotated[str, Depends(Current())]) -> Any:
        return user

    assert await answer(handler) == "ann"


# --- overrides ---


async def test_an_override_of_a_type_reaches_handlers_and_what_factories_are_given() -> None:
    @dataclass
    class Given:
        gateway: Gateway

    @dataclass
    class Open:
        gateway: Gateway

    class Container(containers.DeclarativeContainer):
        gateway: Provides[Gateway] = providers.Singleton(CardGateway)
        given = providers.Factory(Given, gateway=gateway)
        open = providers.Factory(Open)

    async def handler(request: Ask, gateway: Gateway, given: Given, left_open: Open) -> Any:
        return gateway, given.gateway, left_open.gateway

    fake = CardGateway("fake")
    assert await answer(handler, Container(), overrides={Gateway: fake}) == (fake, fake, fake)


async def test_overrides_serve_built_ins_and_dependencies_too() -> None:
    def user() -> str:
        return "ann"

    async def handler(request: Ask, user: Annotated[str, Depends(user)], session: Session) -> Any:
        return user, session

    fake = Session()
    assert await answer(handler, overrides={user: lambda: "fake", Session: fake}) == ("fake", fake)


async def test_an_override_in_the_container_itself_counts() -> None:
    class Container(containers.DeclarativeContainer):
        gateway: Provides[Gateway] = providers.Factory(CardGateway)
        mailer = providers.Singleton(Mailer)

    fake = CardGateway("fake")

    async def handler(request: Ask, gateway: Gateway, mailer: Mailer) -> Any:
        return gateway, mailer

    container = Container()
    container.gateway.override(providers.Object(fake))
    container.mailer.override(providers.Object(fake))
    assert await answer(handler, container) == (fake, fake)
