"""Everything that is wrong with the registrations is told at once, before anything is served."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypedDict

import pytest
from dependency_injector import containers, providers
from fastapi import Depends
from small_app import Session, Unit, compiled

from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.errors import RegistrationError
from cqrs_fastapi.mediation.event_map import EventMap
from cqrs_fastapi.mediation.fallback import Fallback
from cqrs_fastapi.mediation.handlers import EventHandler, NextHandler, RequestHandler
from cqrs_fastapi.mediation.injection import Injector
from cqrs_fastapi.mediation.providers import Provides, index
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.requests import Command, Query, StreamRequest
from cqrs_fastapi.projections.projection import ProjectionMap
from cqrs_fastapi.runtime.assembly import Blueprint, assemble
from cqrs_fastapi.runtime.builtins import builtins_of

if TYPE_CHECKING:
    from decimal import Decimal


class Ask(Command[int]):
    pass


class Other(Command[int]):
    pass


class Rows(StreamRequest[int]):
    pass


class Happened(Event):
    pass


class Gateway(Protocol):
    pass


class Mailer:
    pass


class Base:
    pass


class One(Base):
    pass


class Two(Base):
    pass


def problems_of(
    *handlers: Any, request: Any = Ask, container: Any = None, events: EventMap | None = None, registered: Any = ()
) -> tuple[str, ...]:
    requests = RequestMap()
    for handler in handlers:
        requests.bind(request, handler)
    with pytest.raises(RegistrationError) as caught:
        compiled(requests, events, container=container, registered=registered)
    return caught.value.problems


def the_problem(*handlers: Any, **more: Any) -> str:
    (problem,) = problems_of(*handlers, **more)
    return problem


async def fine(request: Ask) -> int:
    return 1


def test_all_problems_are_numbered_in_one_error() -> None:
    requests, events = RequestMap(), EventMap()

    def not_async(request: Ask) -> int:
        return 1

    async def wrong(request: Other) -> str:
        return ""

    async def react(event: Happened, gateway: Gateway) -> None: ...

    requests.bind(Ask, not_async)  # type: ignore[call-overload]  # the case itself
    requests.bind(Other, wrong)  # type: ignore[call-overload, arg-type]  # the case itself
    events.bind(Happened, react)
    with pytest.raises(RegistrationError) as caught:
        compiled(requests, events, registered=[Rows])
    text = str(caught.value)
    assert text.startswith("4 registrations are wrong:\n  1. ")
    assert [line.strip()[:2] for line in text.splitlines()[1:]] == ["1.", "2.", "3.", "4."]
    for told in ("not_async", "wrong", "Rows has no handler", "Gateway"):
        assert told in text


def test_a_registered_request_without_a_handler() -> None:
    assert the_problem(registered=[Ask]) == "Ask has no handler; write requests.bind(Ask, your_handler)"


def test_a_request_with_two_handlers() -> None:
    async def again(request: Ask) -> int:
        return 2

    problem = the_problem(fine, again)
    assert problem.startswith("Ask is bound 2 times (fine, ")
    assert "bind a list for a chain" in problem


def test_a_missing_dependency() -> None:
    async def handler(request: Ask, gateway: Gateway) -> int:
        return 1

    problem = the_problem(handler)
    assert "parameter 'gateway', asks for Gateway, which nothing provides" in problem
    assert "gateway: Provides[Gateway] = providers.Factory(...)" in problem


def test_an_ambiguous_dependency() -> None:
    class Container(containers.DeclarativeContainer):
        one = providers.Factory(One)
        two = providers.Factory(Two)

    async def handler(request: Ask, base: Base) -> int:
        return 1

    problem = the_problem(handler, container=Container())
    assert "the container offers it by one and two; annotate the one that is meant with Provides[Base]" in problem


def test_a_dependency_of_a_dependency_is_missing() -> None:
    @dataclass
    class Service:
        gateway: Gateway

    class Container(containers.DeclarativeContainer):
        service = providers.Factory(Service)

    async def handler(request: Ask, service: Service) -> int:
        return 1

    problem = the_problem(handler, container=Container())
    assert "parameter 'service'" in problem
    assert "parameter 'gateway', asks for Gateway, which nothing provides" in problem


def test_a_parameter_without_annotation() -> None:
    async def handler(request: Ask, gateway) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001  # the case itself
        return 1

    assert "parameter 'gateway', has no annotation; parameters are injected by type" in the_problem(handler)


def test_a_result_that_contradicts_what_the_request_is_answered_with() -> None:
    async def function(request: Ask) -> str:
        return ""

    class Handler(RequestHandler[Ask, Any]):
        async def handle(self, request: Ask, /) -> None: ...

    assert the_problem(function).endswith("function returns str, but Ask is answered with int")
    assert the_problem(Handler).endswith("Handler.handle returns NoneType, but Ask is answered with int")


def test_a_stream_whose_items_contradict_its_request() -> None:
    async def rows(request: Rows) -> AsyncIterator[str]:
        yield ""

    assert the_problem(rows, request=Rows).endswith("rows returns str, but Rows is answered with int")


class Shape(Protocol):
    sides: int


class Dimensions(TypedDict):
    sides: int


class Square:
    sides = 4


@pytest.mark.parametrize(
    ("returned", "answered"),
    [(bool, int), (int, float), (Square, Shape), (dict, Dimensions), (int, int | None), (Any, int), (int, Any)],
)
def test_results_that_fit_are_no_problem(returned: Any, answered: Any) -> None:
    class Fits(Command[answered]):  # type: ignore[valid-type]  # each answer in turn
        pass

    async def handler(request: Any) -> Any:
        return None

    handler.__annotations__["return"] = returned
    requests = RequestMap()
    requests.bind(Fits, handler)
    compiled(requests)


def test_a_first_parameter_that_contradicts_the_request() -> None:
    async def function(request: Other) -> int:
        return 1

    class Handler(RequestHandler[Any, int]):
        async def handle(self, request: Other, /) -> int:
            return 1

    async def nothing() -> int:
        return 1

    assert the_problem(function).endswith("function takes Other and is bound to Ask")
    assert the_problem(Handler).endswith("Handler.handle takes Other and is bound to Ask")
    assert "takes no message; its first parameter is the Ask" in the_problem(nothing)


def test_a_base_class_or_a_union_as_first_parameter_is_no_problem() -> None:
    async def base(request: Command[int]) -> int:
        return 1

    async def union(request: Ask | Other) -> int:
        return 1

    async def anything(request: object) -> int:
        return 1

    for handler in (base, union, anything):
        requests = RequestMap()
        requests.bind(Ask, handler)
        compiled(requests)


def test_a_handler_class_without_handle_or_without_the_base() -> None:
    class Empty(RequestHandler[Ask, int]):
        pass

    class Stranger:
        async def handle(self, request: Ask) -> int:
            return 1

    assert "Empty has no `handle`; write: async def handle(self, request: Ask)" in the_problem(Empty)
    assert "is bound to Ask and is no RequestHandler; inherit from it" in the_problem(Stranger)


def test_a_handle_that_asks_for_more_than_the_message() -> None:
    class Greedy(RequestHandler[Ask, int]):
        async def handle(self, request: Ask, unit: Unit) -> int:  # type: ignore[override]  # the case itself
            return 1

    assert "takes unit besides the message; a handler class gets what it needs by its constructor" in the_problem(
        Greedy
    )


def test_a_handler_that_is_not_async() -> None:
    def function(request: Ask) -> int:
        return 1

    class Handler(RequestHandler[Ask, int]):
        def handle(self, request: Ask, /) -> int:  # type: ignore[override]  # the case itself
            return 1

    async def no_generator(request: Rows) -> int:
        return 1

    async def generator(request: Ask) -> AsyncIterator[int]:
        yield 1

    for handler, name in ((function, "function"), (Handler, "handle"), (generator, "generator")):
        problem = the_problem(handler)
        assert f"must be an async function: write async def {name}(...)" in problem
    assert "must be an async generator: write async def no_generator(...) with yield" in the_problem(
        no_generator, request=Rows
    )
    assert "cannot be called" in the_problem(3)


def test_an_annotation_that_exists_for_type_checkers_only() -> None:
    async def handler(request: Ask, amount: "Decimal") -> int:
        return 1

    class Handler(RequestHandler[Ask, int]):
        def __init__(self, amount: "Decimal") -> None: ...

        async def handle(self, request: Ask, /) -> int:
            return 1

    for each in (handler, Handler):
        problem = the_problem(each)
        assert "has an annotation that cannot be read at run time (name 'Decimal' is not defined)" in problem
        assert "import the type outside of `if TYPE_CHECKING:`" in problem


def test_a_container_with_an_annotation_for_type_checkers_only() -> None:
    class Container(containers.DeclarativeContainer):
        amount: "Provides[Decimal]" = providers.Object(1)  # type: ignore[assignment]  # the case itself

    assert "import the type outside of `if TYPE_CHECKING:`" in the_problem(container=Container())


def test_a_bare_depends_default() -> None:
    def user() -> str:
        return "ann"

    async def handler(request: Ask, user: str = Depends(user)) -> int:
        return 1

    problem = the_problem(handler)
    assert "has a bare Depends default, which only routes understand" in problem
    assert "user: Annotated[YourType, Depends(...)]" in problem


def test_depends_without_a_function() -> None:
    async def handler(request: Ask, mailer: Annotated[Mailer, Depends()]) -> int:
        return 1

    assert "write Depends(your_function)" in the_problem(handler)


def open_cursor() -> Iterator[Mailer]:
    yield Mailer()


class Holder:
    def __init__(self, mailer: Mailer) -> None: ...


class HoldsSession:
    def __init__(self, session: Session) -> None: ...


class HoldsHolder:
    def __init__(self, holder: HoldsSession) -> None: ...


def captives() -> list[Any]:
    mailer = providers.Factory(open_cursor)
    return [
        providers.Singleton(Holder, mailer=mailer),
        providers.Singleton(HoldsSession),
        providers.Resource(HoldsSession),
        providers.Singleton(HoldsHolder, holder=providers.Factory(HoldsSession)),
        providers.Factory(HoldsHolder, holder=providers.Singleton(HoldsSession)),
    ]


@pytest.mark.parametrize("number", range(5))
def test_something_of_the_application_that_holds_something_of_a_scope(number: int) -> None:
    container, provider = containers.DynamicContainer(), captives()[number]
    container.held = provider

    async def handler(request: Ask, held: HoldsHolder) -> int:
        return 1

    handler.__annotations__["held"] = provider.provides
    problem = the_problem(handler, container=container)
    assert "lives as long as the application but needs " in problem
    assert problem.endswith("which ends with each message; make it a Factory")


def test_a_singleton_whose_argument_nobody_gives() -> None:
    class Container(containers.DeclarativeContainer):
        holder = providers.Singleton(Holder)

    async def handler(request: Ask, holder: Holder) -> int:
        return 1

    assert "whose argument 'mailer' is not given; give it in the container" in the_problem(
        handler, container=Container()
    )


def test_the_last_of_a_chain_has_no_next() -> None:
    async def last(request: Ask, following: NextHandler[Ask, int]) -> int:
        return await following(request)

    assert "only a handler in a list that is not its last gets the next one" in the_problem([fine, last])


def test_an_empty_chain_and_a_chain_for_a_stream() -> None:
    async def rows(request: Rows) -> AsyncIterator[int]:
        yield 1

    assert "bound to an empty list" in the_problem([])
    assert "which has one handler; bind it alone" in the_problem([rows, rows], request=Rows)


def test_a_fallback_that_names_no_error() -> None:
    assert "never falls back; name errors in on=(...)" in the_problem(Fallback(fine, fine, on=()))


def test_something_else_than_a_request_or_an_event() -> None:
    async def react(event: Happened) -> None: ...

    events = EventMap()
    events.bind(Mailer, react)  # type: ignore[type-var, call-overload]  # the case itself
    problems = problems_of(fine, request=Mailer, events=events)
    assert "Mailer is neither a Command, a Query nor a StreamRequest" in problems[0]
    assert "is bound to something else than an event" in problems[1]


def test_two_durable_handlers_with_one_name() -> None:
    async def mail(event: Happened) -> None: ...

    events = EventMap()
    events.bind(Happened, mail, name="mail")
    events.bind(Happened, mail, name="mail")
    problem = the_problem(events=events)
    assert problem.startswith("2 durable handlers of Happened are called 'mail'")
    assert problem.endswith("give one of them name='...'")


def test_one_name_that_begins_at_two_places() -> None:
    async def mail(event: Happened) -> None: ...

    class Other(Event):
        pass

    async def mail_other(event: Other) -> None: ...

    events = EventMap()
    events.bind(Happened, mail, name="mail")
    events.bind(Other, mail_other, name="mail", from_start=True)
    problem = the_problem(events=events)
    assert problem.startswith("some bindings of 'mail' begin at the start and some at the present")
    assert "write from_start=True for all or for none" in problem


def test_a_beginning_for_a_handler_that_has_no_history() -> None:
    async def count(event: Happened) -> None: ...

    events = EventMap()
    events.bind(Happened, count, when="in_transaction", from_start=True)
    problem = the_problem(events=events)
    assert "reacts in the transaction of Happened and has no history to begin with" in problem
    assert problem.endswith("leave from_start out, or bind it when='durable'")


def test_a_name_that_both_holds_and_skips_what_is_unknown() -> None:
    async def mail(event: Happened) -> None: ...

    class Other(Event):
        pass

    async def mail_other(event: Other) -> None: ...

    events = EventMap()
    events.bind(Happened, mail, name="mail")
    events.bind(Other, mail_other, name="mail", unknown="skip")
    problem = the_problem(events=events)
    assert problem.startswith("some bindings of 'mail' hold what is unknown and some skip it")


def test_a_handler_that_reads_nothing_stored_and_skips_what_is_unknown() -> None:
    async def count(event: Happened) -> None: ...

    events = EventMap()
    events.bind(Happened, count, when="in_transaction", unknown="skip")
    problem = the_problem(events=events)
    assert problem.endswith("leave unknown out, or bind it when='durable'")


def test_an_event_handler_that_is_wrong() -> None:
    events = EventMap()

    class Mute(EventHandler[Happened]):
        pass

    async def takes_another(event: Ask) -> None: ...

    events.bind(Happened, Mute)
    events.bind(Happened, takes_another)  # type: ignore[arg-type, call-overload]  # the case itself
    assert len(problems_of(events=events)) == 2


def test_a_repository_of_something_that_is_no_aggregate() -> None:
    async def handler(request: Ask, mailers: Repository[Mailer]) -> int:  # type: ignore[type-var]  # the case itself
        return 1

    requests = RequestMap()
    requests.bind(Ask, handler)
    blueprint = Blueprint(requests, EventMap(), ProjectionMap(), [], (), ())
    nothing: Any = object()
    injector = Injector(builtins_of(nothing), index(containers.DynamicContainer()), {})
    with pytest.raises(RegistrationError, match=r"Repository\[.*Mailer.*\] is asked for, and that is no Aggregate"):
        assemble(blueprint, injector)


def test_problems_name_no_query_that_is_fine() -> None:
    class Fine(Query[list[int]]):
        pass

    requests = RequestMap()

    @requests.handles(Fine)
    async def handler(request: Fine) -> list[int]:
        return [1]

    compiled(requests, registered=[Fine])


def test_nothing_is_compiled_or_inspected_while_a_request_is_served() -> None:
    """In a process of its own, since an audit hook stays for ever."""
    program = """
import asyncio, sys
from dependency_injector import containers, providers
from small_app import Unit, started
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.messages.requests import Command

class Ask(Command[int]):
    pass

class Mailer:
    pass

class Container(containers.DeclarativeContainer):
    mailer = providers.Factory(Mailer)

async def handler(request: Ask, mailer: Mailer, unit: Unit) -> int:
    return 1

async def main() -> None:
    requests = RequestMap()
    requests.bind(Ask, handler)
    app = await started(requests, container=Container())
    await app.mediator.send(Ask())
    heard = []
    sys.addaudithook(lambda name, _: heard.append(name))
    await app.mediator.send(Ask())
    assert not {"import", "compile", "exec", "open"} & set(heard), heard

asyncio.run(main())
"""
    path = [entry for entry in sys.path if entry]
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{program}"], check=False)
    assert done.returncode == 0
