"""Wrong bindings of topics are told at once when the application starts."""

from dataclasses import dataclass

import pytest

from cqrs_fastapi import CQRS, BrokerRouter, Command, Event, Query, StreamRequest
from cqrs_fastapi.errors import RegistrationError

pytestmark = pytest.mark.anyio


class Do(Command[int]): ...


class DoElse(Command[int]): ...


class Ask(Query[int]): ...


class Pages(StreamRequest[int]): ...


class Happened(Event, topic="things"): ...


class Opaque:
    """Nothing that JSON knows."""


class AskOpaque(Query[Opaque]): ...


@dataclass
class Nothing: ...


async def do(command: Do) -> int:
    del command
    return 1


async def do_else(command: DoElse) -> int:
    del command
    return 1


async def ask(query: Ask) -> int:
    del query
    return 1


async def ask_opaque(query: AskOpaque) -> Opaque:
    del query
    return Opaque()


async def pages(request: Pages):  # noqa: ANN201  # the compiler reads the request
    del request
    yield 1


def application() -> tuple[CQRS, BrokerRouter]:
    cqrs = CQRS()
    cqrs.requests.bind(Do, do)
    cqrs.requests.bind(DoElse, do_else)
    cqrs.requests.bind(Ask, ask)
    cqrs.requests.bind(AskOpaque, ask_opaque)
    cqrs.requests.bind(Pages, pages)
    cqrs.register(Happened)
    router = BrokerRouter()
    cqrs.brokers.include(router)
    return cqrs, router


TWICE = "a topic carries one kind of request; give one another topic"


async def problems_of(cqrs: CQRS) -> tuple[str, ...]:
    with pytest.raises(RegistrationError) as error:
        await cqrs.open()
    return error.value.problems


async def test_all_that_is_wrong_is_numbered_in_one_error(tmp_path: object) -> None:
    cqrs, router = application()
    router.command("Do", Do)
    router.command("Do", DoElse)
    router.command("things", Do)
    router.command("Do it", Do)
    router.command("my.replies", Do)
    router.command("Asked", Ask)
    router.query("Done", Do)
    router.query("Pages", Pages)  # type: ignore[arg-type]
    router.query("Opaque", AskOpaque)
    router.command("Nothing", Nothing)  # type: ignore[arg-type]
    router.command("Everybody", Do, to="everybody")  # type: ignore[arg-type]

    problems = await problems_of(cqrs)

    assert problems == (
        f"router.command('Do', DoElse) and router.command('Do', Do): {TWICE}",
        "router.command('things', Do): 'things' is the topic of the event Happened; give the request one of its own",
        "router.command('Do it', Do): 'Do it' is no topic name; use 1-249 letters, digits, '.', '_' or '-'",
        "router.command('my.replies', Do): topics that end in '.replies' carry replies; give it another name",
        "router.command('Asked', Ask): Ask is a query; write router.query('Asked', …)",
        "router.query('Done', Do): Do is a command; write router.command('Done', …)",
        "router.query('Pages', Pages): a stream request has no single reply; make it a query that answers page by page",
        "router.query('Opaque', AskOpaque): it is answered with Opaque, which pydantic cannot write as JSON",
        "router.command('Nothing', Nothing): Nothing is neither a Command nor a Query; inherit from one",
        "router.command('Everybody', Do): to='everybody' is unknown; write 'one' or 'all'",
    )


async def test_a_request_without_a_handler_is_told() -> None:
    cqrs = CQRS()
    cqrs.brokers.command("Do", Do)

    assert await problems_of(cqrs) == ("Do has no handler; write requests.bind(Do, your_handler)",)


def test_what_is_no_class_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="takes a topic and the class"):
        BrokerRouter().command("Do", do)  # type: ignore[arg-type]


async def test_one_request_may_have_several_topics_and_routers_may_hold_routers() -> None:
    cqrs, router = application()
    inner = BrokerRouter()
    router.include(inner)
    inner.command("Do", Do)
    inner.command("DoToo", Do)

    assert [binding.topic for binding in cqrs.brokers.bindings()] == ["Do", "DoToo"]
