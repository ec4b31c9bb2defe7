"""What is recorded and not folded, or folded and recorded by nobody, is told when the application starts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    Decider,
    Event,
    Repository,
    RequestHandler,
    Settings,
    Upcast,
    applies,
    upcasts,
)
from cqrs_fastapi.errors import RegistrationError

pytestmark = pytest.mark.anyio


class Opened(Event):
    pass


class Closed(Event):
    pass


class Forgotten(Event):
    """No function here names it, which would count as making it."""


class Chosen(Event):
    pass


class Helped(Event):
    pass


class Foreign(Event):
    """As Forgotten, of an aggregate that is only loaded here."""


class Audit:
    def record(self, event: Event) -> None: ...


CHOICES = {"chosen": Chosen}


def helper(door: Any) -> None:
    """What a scan of handlers does not reach."""
    door.record(Helped())


class Door(Aggregate):
    def open(self) -> None:
        self.record(Opened())

    @applies
    def on_opened(self, event: Opened) -> None: ...


Doors: TypeAlias = Repository[Door]


class Act(Command[None]):
    id: UUID


async def problems(
    url: str, *aggregates: type[Aggregate], handler: Any = None, upcaster: Any = None
) -> tuple[str, ...]:
    """What an application with these parts is told at its start."""
    cqrs = CQRS(settings=Settings(database_url=url))
    cqrs.register(*aggregates)
    if upcaster is not None:
        cqrs.upcasters.include(upcaster)
    if handler is not None:
        cqrs.requests.bind(Act, handler)
    try:
        async with cqrs.running(workers=()):
            return ()
    except RegistrationError as error:
        return error.problems


async def test_an_event_that_a_method_records_has_a_fold(sqlite_url: str) -> None:
    class Gate(Door):
        def close(self) -> None:
            self.record(Closed())

    assert await problems(sqlite_url, Gate) == (
        "Gate.close records Closed and Gate has no fold for it; write: @applies def on_closed(self, event: Closed)",
    )


async def test_a_record_is_found_in_lambdas_properties_and_by_the_name_of_a_module(sqlite_url: str) -> None:
    here = sys.modules[__name__]
    here.this_module = here  # type: ignore[attr-defined]  # a module imported as a whole

    class Gate(Door):
        def close_all(self, numbers: list[int]) -> None:
            list(map(lambda number: self.record(Closed()), numbers))  # noqa: C417  # the form under test

    class Hatch(Door):
        @property
        def closed(self) -> bool:
            self.record(this_module.Closed())  # type: ignore[name-defined]  # noqa: F821  # as above
            return True

    class Flap(Door):
        @staticmethod
        def closed(book: Audit) -> None:
            book.record(Closed())  # nothing of this is known here

    found = await problems(sqlite_url, Gate, Hatch, Flap)
    assert [one.split(" and ")[0] for one in found] == ["Gate.close_all records Closed", "Hatch.closed records Closed"]


async def test_the_fold_may_come_with_a_subclass(sqlite_url: str) -> None:
    class Closing(Door):
        def close(self) -> None:
            self.record(Closed())

    class Gate(Closing):
        @applies
        def on_closed(self, event: Closed) -> None: ...

    assert await problems(sqlite_url, Gate) == ()


async def test_an_event_that_a_handler_records_in_an_aggregate_has_a_fold(sqlite_url: str) -> None:
    async def act(command: Act, doors: Repository[Door]) -> None:
        door = await doors.get_or_new(command.id)
        door.record(Closed())

    class ActHandler(RequestHandler[Act, None]):
        def __init__(self, doors: Doors) -> None:
            self._doors = doors

        async def handle(self, command: Act) -> None:
            door = await self._doors.get_or_new(command.id)
            door.record(Closed())

    for handler in (act, ActHandler):
        (told,) = await problems(sqlite_url, handler=handler)
        assert told.endswith(
            "records Closed, which no aggregate here has a fold for; write in the aggregate: "
            "@applies def on_closed(self, event: Closed)"
        )


async def test_something_else_that_records_events_needs_no_fold(sqlite_url: str) -> None:
    async def act(command: Act, doors: Repository[Door], audit: Audit = Audit()) -> None:
        (await doors.get_or_new(command.id)).open()
        audit.record(Closed())

    assert await problems(sqlite_url, handler=act) == ()


class Attic(Door):
    @applies
    def on_forgotten(self, event: Forgotten) -> None: ...


async def test_a_fold_of_an_event_that_nobody_records_is_told_with_what_to_write(sqlite_url: str) -> None:
    assert await problems(sqlite_url, Attic) == (
        (
            "Attic.on_forgotten applies Forgotten, which nobody records; take the fold out, or, if such events are "
            "stored, write: class Attic(..., stored=(Forgotten,))"
        ),
    )


async def test_an_event_that_an_upcaster_makes_is_folded(sqlite_url: str) -> None:
    @upcasts("door.lost", version=1, into=[("Forgotten", 1)])
    def lost(data: dict[str, Any]) -> list[Upcast]:
        return [Upcast("Forgotten", 1, data)]

    assert await problems(sqlite_url, Attic, upcaster=lost) == ()


class OldAttic(Door, stored=(Forgotten,)):
    @applies
    def on_forgotten(self, event: Forgotten) -> None: ...


class Loft(OldAttic):
    pass


async def test_an_event_that_is_only_stored_is_folded(sqlite_url: str) -> None:
    assert await problems(sqlite_url, OldAttic, Loft) == ()


class Empty(Door, stored=(Forgotten,)):
    pass


async def test_an_event_that_is_only_stored_must_have_its_fold(sqlite_url: str) -> None:
    (told,) = await problems(sqlite_url, Empty)
    assert told.startswith("Empty names Forgotten in stored=... and has no fold for it, so that such streams cannot")


class Summed(Event):
    pass


SUMMARY = Summed()  # what a script does, outside of functions


class Cellar(Door):
    @applies
    def on_summed(self, event: Summed) -> None: ...


async def test_an_event_that_is_made_outside_of_functions_is_recorded(sqlite_url: str) -> None:
    assert await problems(sqlite_url, Cellar) == ()


async def test_an_event_of_a_prompt_is_not_judged_since_more_may_be_typed(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = ModuleType("prompt")
    monkeypatch.setitem(sys.modules, "prompt", prompt)
    typed = "class Typed(Event): pass\nclass Shed(Door):\n    @applies\n    def on_typed(self, event: Typed): ..."
    vars(prompt).update(Event=Event, Door=Door, applies=applies)
    exec(typed, vars(prompt))  # noqa: S102  # a prompt, which has no file
    assert await problems(sqlite_url, vars(prompt)["Shed"]) == ()


class Hall(Door):
    @applies
    def on_chosen(self, event: Chosen) -> None: ...

    @applies
    def on_helped(self, event: Helped) -> None: ...


async def test_an_event_that_is_taken_from_a_table_or_made_by_a_helper_is_recorded(sqlite_url: str) -> None:
    assert await problems(sqlite_url, Hall) == ()


class Elsewhere(Aggregate):
    @applies
    def on_foreign(self, event: Foreign) -> None: ...


async def test_an_aggregate_that_is_only_loaded_here_has_its_events_from_elsewhere(sqlite_url: str) -> None:
    assert await problems(sqlite_url, Elsewhere) == ()


class Lock(Decider[bool]):
    initial = False

    @staticmethod
    def decide(state: bool, command: Act) -> Iterable[Event]:
        return [] if state else [Opened()]

    @staticmethod
    def evolve(state: bool, event: Opened | Forgotten) -> bool:
        match event:
            case Opened():
                return True
            case Forgotten():
                return False


async def test_what_a_decider_evolves_by_and_nobody_decides_is_told(sqlite_url: str) -> None:
    (told,) = await problems(sqlite_url, Lock)
    assert told.startswith("Lock.evolve applies Forgotten, which nobody records")


async def test_all_of_it_is_told_at_once(sqlite_url: str) -> None:
    class Gate(Attic):
        def close(self) -> None:
            self.record(Closed())

    assert len(await problems(sqlite_url, Gate, Attic, handler=int)) == 4
