"""Sets of entities and of values: what is in them, what has changed, and how they are written."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cqrs_fastapi import Entity, EntitySet, Event, ValueObject, ValueObjectSet
from cqrs_fastapi.domain.sets import Changes
from cqrs_fastapi.messages.json_codec import codec_for


class Line(Entity):
    product: str = "tea"


class Tag(ValueObject):
    name: str


class Packed(Event):
    lines: EntitySet[Line]
    tags: ValueObjectSet[Tag]


ONE, TWO, THREE = (Line(id=UUID(int=number)) for number in (1, 2, 3))
RED, BLUE = Tag(name="red"), Tag(name="blue")

lines = st.builds(Line, id=st.integers(1, 6).map(lambda number: UUID(int=number)), product=st.sampled_from("abc"))
entity_sets = st.lists(lines, max_size=8).map(EntitySet)
value_sets = st.lists(st.builds(Tag, name=st.sampled_from("abcdef")), max_size=8).map(ValueObjectSet)


def test_entities_are_found_by_themselves_and_by_their_ids() -> None:
    found = EntitySet([ONE, TWO])
    assert ONE in found
    assert ONE.id in found
    assert THREE not in found
    assert THREE.id not in found
    assert found.get(ONE.id) is found[ONE.id] is ONE
    assert found.get(THREE.id) is None
    with pytest.raises(KeyError):
        found[THREE.id]


def test_an_entity_takes_the_place_of_one_with_its_id() -> None:
    changed = ONE.model_copy(update={"product": "coffee"})
    found = EntitySet([ONE, TWO])
    found.add(changed)
    assert list(found) == [changed, TWO]


@pytest.mark.parametrize("gone", [ONE, ONE.id, ONE.model_copy(update={"product": "coffee"})])
def test_an_entity_is_discarded_by_itself_or_its_id(gone: Line | UUID) -> None:
    found = EntitySet([ONE, TWO])
    found.discard(gone)
    found.discard(gone)
    assert list(found) == [TWO]
    with pytest.raises(KeyError):
        found.remove(ONE)


def test_values_are_there_once() -> None:
    found = ValueObjectSet([RED, BLUE, Tag(name="red")])
    assert list(found) == [RED, BLUE]
    assert Tag(name="blue") in found
    found.discard(Tag(name="blue"))
    assert list(found) == [RED]


def test_sets_of_one_kind_are_joined_and_compared_whatever_the_order() -> None:
    assert EntitySet([ONE, TWO]) == EntitySet([TWO, ONE])
    assert EntitySet([ONE]) | EntitySet([TWO]) == EntitySet([ONE, TWO])
    assert EntitySet([ONE, TWO]) - EntitySet([TWO]) == EntitySet([ONE])
    assert EntitySet([ONE]) != EntitySet([ONE.model_copy(update={"product": "coffee"})])
    assert ValueObjectSet([RED]) != EntitySet([ONE])


def test_what_is_iterated_may_be_discarded_meanwhile() -> None:
    found = EntitySet([ONE, TWO, THREE])
    for line in found:
        found.discard(line)
    assert len(found) == 0


def test_a_change_is_told_by_member() -> None:
    changed = TWO.model_copy(update={"product": "coffee"})
    assert EntitySet([THREE, changed]).since(EntitySet([ONE, TWO])) == Changes((THREE,), (changed,), (ONE,))
    assert ValueObjectSet([BLUE]).since(ValueObjectSet([RED])) == Changes((BLUE,), (), (RED,))
    assert not EntitySet([ONE, TWO]).since(EntitySet([TWO, ONE]))


@given(entity_sets, entity_sets)
def test_changes_of_entities_lead_from_one_state_to_the_other(before: EntitySet[Line], after: EntitySet[Line]) -> None:
    changes = after.since(before)
    assert bool(changes) == (before != after)
    before.apply(changes)
    assert before == after


@given(value_sets, value_sets)
def test_changes_of_values_lead_from_one_state_to_the_other(
    before: ValueObjectSet[Tag], after: ValueObjectSet[Tag]
) -> None:
    changes = after.since(before)
    assert changes.updated == ()
    before.apply(changes)
    assert before == after


@given(entity_sets, value_sets)
def test_events_hold_sets_as_lists(some_lines: EntitySet[Line], tags: ValueObjectSet[Tag]) -> None:
    codec = codec_for(Packed)
    event = Packed(lines=some_lines, tags=tags)
    written = codec.encode(event)
    assert codec.decode(written) == event
    assert written.startswith(b'{"lines":[')
    assert list(codec.decode(written).lines) == list(some_lines)


def test_an_event_does_not_share_its_sets() -> None:
    mine = EntitySet([ONE])
    event = Packed(lines=mine, tags=ValueObjectSet())
    mine.add(TWO)
    assert list(event.lines) == [ONE]


@pytest.mark.parametrize("given_", [[ONE, TWO], (ONE, TWO), EntitySet([ONE, TWO])])
def test_sets_are_made_of_what_holds_their_members(given_: object) -> None:
    assert TypeAdapter(EntitySet[Line]).validate_python(given_) == EntitySet([ONE, TWO])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('[{"id": 1}]', "UUID"),
        ('{"id": "00000000-0000-0000-0000-000000000001"}', "valid array"),
        ('[{"id": "00000000-0000-0000-0000-000000000001"}, {"id": "00000000-0000-0000-0000-000000000001"}]', "twice"),
        ("7", "valid array"),
    ],
)
def test_what_is_no_set_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        TypeAdapter(EntitySet[Line]).validate_json(text)


def test_a_set_of_anything_holds_entities() -> None:
    assert len(TypeAdapter(EntitySet).validate_python([Line(id=uuid4())])) == 1
