"""What may be marked as personal, and what a field reads as once it is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import msgspec
import pytest
from pydantic import BaseModel, Field, computed_field, model_serializer

from cqrs_fastapi import Event, Personal, PersonalData, event
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.personal import personal_fields
from cqrs_fastapi.messages.registry import EventRegistry


class Street(BaseModel):
    name: Personal[str]


@dataclass
class Line:
    text: Annotated[str, PersonalData()]


class Known(Event, subject="who"):
    who: str
    parent: str
    email: Personal[str]
    nick: Personal[str | None] = None
    born: Personal[date | None] = None
    married: Annotated[date, PersonalData(forgotten=date(1, 1, 1))]
    childhood: Annotated[str, PersonalData(subject="parent", forgotten="?")]
    friends: Annotated[list[str], PersonalData(forgotten=[])]


class Later(Event, subject="who"):
    who: str
    home: Personal[Home | None]


class Home(BaseModel):
    town: str


def placeholders(cls: type) -> dict[str, str]:
    definition = definition_of(cls)
    return {one.name: one.forgotten for one in personal_fields(cls, definition.subject, definition.tags)}


def test_each_field_has_a_placeholder_of_its_own_type() -> None:
    assert placeholders(Known) == {
        "email": '"(forgotten)"',
        "nick": '"(forgotten)"',
        "born": "null",
        "married": '"0001-01-01"',
        "childhood": '"?"',
        "friends": "[]",
    }


def test_a_field_may_be_about_another_subject() -> None:
    definition = definition_of(Known)
    found = {one.name: one.subject for one in personal_fields(Known, definition.subject, ())}
    assert found["email"] == "who"
    assert found["childhood"] == "parent"


def test_a_class_whose_types_are_known_later_is_read_when_it_is_registered() -> None:
    registered = next(iter(EventRegistry([Later])))
    assert [one.name for one in registered.personal] == ["home"]


def nobody() -> None:
    class Wrong(Event):
        who: str
        email: Personal[str]


def no_such_subject() -> None:
    class Wrong(Event, subject="whom"):
        who: str
        email: Personal[str]


def a_personal_subject() -> None:
    class Wrong(Event, subject="email"):
        who: str
        email: Personal[str]


def no_personal_field() -> None:
    class Wrong(Event, subject="who"):
        who: str


def no_placeholder() -> None:
    class Wrong(Event, subject="who"):
        who: str
        age: Personal[int]


def a_placeholder_of_another_type() -> None:
    class Wrong(Event, subject="who"):
        who: str
        age: Annotated[int, PersonalData(forgotten="none")]


def a_placeholder_that_is_too_short() -> None:
    class Wrong(Event, subject="who"):
        who: str
        code: Annotated[str, PersonalData(), Field(min_length=20)]


def a_placeholder_of_a_struct() -> None:
    @event(subject="who")
    class Wrong(msgspec.Struct, frozen=True):
        who: str
        age: Personal[int]

    EventRegistry([Wrong])


def half_a_field() -> None:
    class Wrong(Event, subject="who"):
        who: str
        email: Personal[str] | None = None


def a_field_of_a_value() -> None:
    class Wrong(Event, subject="who"):
        who: str
        streets: list[Street]


def a_field_of_a_dataclass_in_a_dataclass() -> None:
    @event(subject="who")
    @dataclass(frozen=True)
    class Wrong:
        who: str
        lines: dict[str, Line]

    EventRegistry([Wrong])


def a_tag() -> None:
    class Wrong(Event, subject="who", tags=("email",)):
        who: str
        email: Personal[str]


def a_tag_of_a_dataclass() -> None:
    @event(subject="who", tags=("email",))
    @dataclass(frozen=True)
    class Wrong:
        who: str
        email: Personal[str]

    EventRegistry([Wrong])


def an_alias() -> None:
    class Wrong(Event, subject="who"):
        who: str
        email: Annotated[str, PersonalData(), Field(alias="mail")]


def a_computed_field() -> None:
    class Wrong(Event, subject="who"):
        who: str
        email: Personal[str]

        @computed_field
        def shouted(self) -> str:
            return self.email.upper()


def a_serializer() -> None:
    class Wrong(Event, subject="who"):
        who: str
        email: Personal[str]

        @model_serializer
        def as_written(self) -> dict[str, Any]:
            return {"who": self.who, "mail": self.email}


def an_array() -> None:
    @event(subject="who")
    class Wrong(msgspec.Struct, frozen=True, array_like=True):
        who: str
        email: Personal[str]

    EventRegistry([Wrong])


def no_brackets() -> None:
    class Wrong(Event, subject="who"):
        who: str
        email: Annotated[str, PersonalData]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nobody, r"nothing says whose.*subject='customer_id'"),
        (no_such_subject, "'whom', which is no field of the event"),
        (a_personal_subject, "'email', which is a personal field"),
        (no_personal_field, "names the subject 'who' and has no personal field"),
        (no_placeholder, "age has nothing to read as"),
        (a_placeholder_of_another_type, "age has forgotten='none' to read as"),
        (a_placeholder_that_is_too_short, "code has nothing to read as"),
        (a_placeholder_of_a_struct, "age has nothing to read as"),
        (half_a_field, "email is not personal as a whole"),
        (a_field_of_a_value, "streets is not personal as a whole"),
        (a_field_of_a_dataclass_in_a_dataclass, "lines is not personal as a whole"),
        (a_tag, "email is personal and a tag"),
        (a_tag_of_a_dataclass, "email is personal and a tag"),
        (an_alias, "the alias of email"),
        (a_computed_field, "the computed field shouted"),
        (a_serializer, "a serializer of the model"),
        (an_array, "array_like"),
        (no_brackets, r"write PersonalData\(\)"),
    ],
)
def test_a_wrong_mark_is_an_error_at_the_start(make: Callable[[], None], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()
