"""Entities keep their id while they change; values are what they hold."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from cqrs_fastapi import Entity, Event, ExternalEntity, ValueObject
from cqrs_fastapi.messages.json_codec import codec_for


class Money(ValueObject):
    cents: int
    currency: str = "EUR"


class Words(ValueObject):
    words: list[str]


class Line(Entity):
    product: str
    price: Money
    quantity: int = 1


class Customer(ExternalEntity):
    name: str


class Ordered(Event):
    line: Line
    customer: Customer


EURO = Money(cents=100)


def test_values_are_equal_if_they_hold_the_same() -> None:
    assert Money(cents=100) == EURO
    assert Money(cents=100, currency="CHF") != EURO
    assert hash(Money(cents=100)) == hash(EURO)


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Words(words=["a"]))
    with pytest.raises(ValidationError, match="frozen"):
        EURO.cents = 5  # type: ignore[misc]  # which the checker tells too


def test_an_entity_changes_its_fields_and_keeps_its_id() -> None:
    line = Line(product="tea", price=EURO)
    before = line.id
    line.quantity = 3
    assert (line.quantity, line.id) == (3, before)
    with pytest.raises(ValidationError, match="frozen"):
        line.id = uuid4()  # type: ignore[misc]  # which the checker tells too


def test_a_change_of_an_entity_is_validated() -> None:
    line = Line(product="tea", price=EURO)
    with pytest.raises(ValidationError):
        line.quantity = "many"  # type: ignore[assignment]  # which the checker tells too
    assert line.quantity == 1


def test_two_states_of_one_entity_differ_and_are_found_alike() -> None:
    line = Line(product="tea", price=EURO)
    later = line.model_copy(update={"quantity": 2})
    assert line != later
    assert hash(line) == hash(later)


def test_an_id_that_is_left_out_is_a_new_one() -> None:
    assert Line(product="tea", price=EURO).id != Line(product="tea", price=EURO).id


@pytest.mark.parametrize("fields", [{"name": "Ada"}, {"name": "Ada", "id": uuid4()}, {"name": "Ada", "version": 1}])
def test_an_external_entity_has_an_id_and_a_version_that_somebody_else_gave_it(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        Customer.model_validate(fields)


def test_an_external_entity_has_a_version_from_one_on() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Customer(id=uuid4(), version=0, name="Ada")


def test_events_hold_entities_and_values_and_ignore_fields_of_later_versions() -> None:
    codec = codec_for(Ordered)
    event = Ordered(
        line=Line(id=UUID(int=1), product="tea", price=EURO), customer=Customer(id=UUID(int=2), version=7, name="Ada")
    )
    assert codec.decode(codec.encode(event)) == event
    later = (
        codec.encode(event).replace(b'"currency"', b'"later":1,"currency"').replace(b'"product"', b'"l":2,"product"')
    )
    assert codec.decode(later) == event
