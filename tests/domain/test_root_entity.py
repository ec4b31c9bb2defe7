"""Root entities by themselves: which events follow from what is done to their fields."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given as any_of
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from cqrs_fastapi import (
    Changed,
    Created,
    Deleted,
    DeletedError,
    Diff,
    Entity,
    EntitySet,
    Event,
    RootEntity,
    Tracked,
    Updated,
    ValueObject,
    ValueObjectSet,
    applies,
    tracked,
)
from cqrs_fastapi.messages.events import definition_of, event_types_of
from cqrs_fastapi.messages.json_codec import codec_for
from cqrs_fastapi.testing import changed, created, deleted, given

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
AN_ID = UUID(int=1)


class Tag(ValueObject):
    name: str


class Part(Entity):
    pieces: int


class Colour(Enum):
    RED = "red"


class Product(RootEntity, topic="products"):
    price: Tracked[Annotated[int, Field(ge=0)]]
    title: Tracked[str | None] = tracked(default=None)
    tags: Tracked[ValueObjectSet[Tag]] = tracked(default_factory=ValueObjectSet)
    parts: Tracked[EntitySet[Part]] = tracked(default_factory=EntitySet)
    sizes: Tracked[dict[str, list[int]]] = tracked(default_factory=dict)

    def discount(self) -> None:
        self.price -= 1


def stored(**fields: object) -> Product:
    """One that was created and stored."""
    product = Product(AN_ID)
    product.replay([created(Product, id=AN_ID, at=NOW, **{"price": 3, **fields})], 1)
    return product


def recorded(product: Product) -> list[Any]:
    product.record_changes(LATER)
    return list(product.recorded)


# --- what is recorded ---


def test_a_new_one_is_created_with_all_of_its_fields() -> None:
    product = Product(AN_ID)
    product.price = 3
    (event,) = recorded(product)
    assert isinstance(event, Created[Product])
    assert (event.id, event.at, event.fields.price, event.fields.title) == (AN_ID, LATER, 3, None)
    assert product.created_at == product.updated_at == LATER


def test_each_changed_field_is_an_event_in_the_order_of_the_fields() -> None:
    product = stored()
    product.title = "shoe"
    product.price = 4
    price, title = recorded(product)
    assert (definition_of(type(price)).name, price.value) == ("ProductUpdated.price", 4)
    assert (definition_of(type(title)).name, title.value) == ("ProductUpdated.title", "shoe")
    assert (product.created_at, product.updated_at) == (NOW, LATER)


def test_each_changed_member_of_a_set_is_an_event() -> None:
    kept, gone, new = Part(pieces=1), Part(pieces=2), Part(pieces=3)
    product = stored(parts=[kept, gone], tags=[Tag(name="old")])
    product.parts[kept.id].pieces = 5
    product.parts.discard(gone)
    product.parts.add(new)
    product.tags.discard(Tag(name="old"))
    events = recorded(product)
    assert [(definition_of(type(event)).name, event.value) for event in events] == [
        ("ProductUpdated.tags.delete", Tag(name="old")),
        ("ProductUpdated.parts.create", new),
        ("ProductUpdated.parts.update", Part(id=kept.id, pieces=5)),
        ("ProductUpdated.parts.delete", gone),
    ]


def test_what_is_changed_in_place_is_found() -> None:
    product = stored(sizes={"eu": [38]})
    product.sizes["eu"].append(39)
    (event,) = recorded(product)
    assert event.value == {"eu": [38, 39]}


@pytest.mark.parametrize(
    "act",
    [
        lambda product: setattr(product, "price", 3),
        lambda product: (setattr(product, "price", 4), setattr(product, "price", 3)),
        lambda product: (product.tags.add(Tag(name="x")), product.tags.discard(Tag(name="x"))),
        lambda product: setattr(product, "sizes", {"us": [6], "eu": [38]}),
        lambda product: product.sizes["eu"].sort(),
        lambda product: product.parts,
        lambda product: product.update(price=3, title=None),
    ],
    ids=["same value", "back again", "member back again", "other order", "in place", "only read", "update"],
)
def test_a_change_of_nothing_records_nothing(act: Callable[[Product], object]) -> None:
    product = stored(sizes={"eu": [38], "us": [6]})
    act(product)
    assert recorded(product) == []


def test_a_truth_is_another_value_than_the_number_that_it_equals() -> None:
    class Flagged(RootEntity):
        flag: Tracked[bool | int]

    flagged = Flagged(AN_ID)
    flagged.replay([created(Flagged, flag=1)], 1)
    flagged.flag = True
    flagged.record_changes(LATER)
    assert [event.value for event in flagged.recorded] == [True]  # type: ignore[union-attr]  # events of this class


def test_what_is_recorded_is_recorded_once() -> None:
    product = stored()
    product.price = 4
    assert len(recorded(product)) == 1
    assert len(recorded(product)) == 1
    product.price = 3
    assert [event.value for event in recorded(product)] == [4, 3]


def test_what_is_changed_after_its_creation_was_recorded_is_a_change() -> None:
    product = Product(AN_ID)
    product.price = 3
    sizes = product.sizes
    recorded(product)
    sizes["eu"] = [38]
    assert [definition_of(type(event)).name for event in recorded(product)] == [
        "ProductCreated",
        "ProductUpdated.sizes",
    ]


def test_an_event_does_not_change_with_the_field() -> None:
    product = stored()
    product.sizes["eu"] = [38]
    (event,) = recorded(product)
    product.sizes["eu"].append(39)
    assert event.value == {"eu": [38]}


def test_a_deleted_one_records_its_end_alone_and_takes_no_change() -> None:
    product = stored()
    product.price = 4
    product.delete()
    (event,) = recorded(product)
    assert isinstance(event, Deleted[Product])
    with pytest.raises(DeletedError, match="was deleted at 2026-01-01T01:00:00"):
        product.price = 5
    with pytest.raises(DeletedError):
        product.update(price=5)
    with pytest.raises(DeletedError):
        product.delete()


def test_one_that_was_created_and_deleted_at_once_records_nothing() -> None:
    product = Product(AN_ID)
    product.price = 3
    product.delete()
    assert recorded(product) == []


def test_replayed_events_make_the_same_state() -> None:
    part = Part(pieces=1)
    product = stored(tags=[Tag(name="old")])
    product.update(price=9, parts=[part], tags=[Tag(name="new")])
    again = Product(AN_ID)
    again.replay([created(Product, id=AN_ID, at=NOW, price=3, tags=[Tag(name="old")]), *recorded(product)], 5)
    assert again.to_json() == product.to_json()
    assert (again.version, again.created_at, again.updated_at) == (5, NOW, LATER)


def test_every_event_is_read_as_it_was_written() -> None:
    product = stored()
    product.update(price=9, parts=[Part(pieces=1)], sizes={"eu": [1]}, title="\N{SNOWMAN}")
    for event in recorded(product):
        codec = codec_for(type(event))
        assert codec.decode(codec.encode(event)) == event


def test_a_state_is_restored_and_what_it_lacks_has_its_default() -> None:
    product = Product(AN_ID)
    product.restore('{"price": 7, "unknown": 1}', 3, NOW, LATER)
    assert (product.price, product.title, product.version) == (7, None, 3)
    assert recorded(product) == []


def test_two_objects_share_no_value() -> None:
    sizes = {"eu": [38]}
    first, second = stored(), stored()
    first.sizes = sizes
    second.sizes = first.sizes
    sizes["eu"].append(39)
    first.sizes["eu"].append(40)
    assert second.sizes == {"eu": [38]}


# --- values ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("price", "many"),
        ("price", -1),
        ("title", 3),
        ("title", "a\0b"),
        ("parts", [{"pieces": "x"}]),
        ("sizes", {"eu": 38}),
    ],
)
def test_a_wrong_value_is_refused_at_once(name: str, value: object) -> None:
    product = stored()
    with pytest.raises(ValueError):
        setattr(product, name, value)
    assert recorded(product) == []


def test_an_update_with_one_wrong_value_changes_nothing() -> None:
    product = stored()
    with pytest.raises(ValidationError):
        product.update(title="shoe", price=-1)
    with pytest.raises(TypeError, match="Product has no field colour; it has price, title, tags, parts, sizes"):
        product.update(title="shoe", colour="red")
    assert product.title is None


def test_a_field_without_a_value_says_so() -> None:
    with pytest.raises(AttributeError, match=r"Product\.price has no value yet"):
        _ = Product(AN_ID).price
    product = Product(AN_ID)
    product.title = "shoe"
    with pytest.raises(TypeError, match="a new Product has no price"):
        product.record_changes(NOW)


# --- diffs ---


def test_a_diff_gives_changed_fields_by_name_and_attribute_and_comes_apart() -> None:
    old, new = stored(), stored(price=5, tags=[Tag(name="x")])
    diff = old.diff(new)
    assert list(diff) == ["price", "tags"]
    assert diff["price"] == diff.price == 5
    assert diff.tags.created == (Tag(name="x"),)
    assert diff.decompose() == (Diff({"price": 5}), Diff({"tags": diff.tags}))
    with pytest.raises(AttributeError, match="the field title did not change; these did: price, tags"):
        _ = diff.title
    assert not old.diff(stored())


def test_an_event_is_a_diff_of_one_field() -> None:
    product = stored(tags=[Tag(name="old")])
    product.update(price=5, tags=[Tag(name="new")])
    old = stored(tags=[Tag(name="old")])
    for event in recorded(product):
        assert list(event.diff) == [event.field]
        old.apply_diff(event.diff)
    assert old.to_json() == product.to_json()


part_ids = st.sampled_from([UUID(int=number) for number in range(1, 5)])
states = st.fixed_dictionaries(
    {
        "price": st.integers(0, 3),
        "title": st.none() | st.sampled_from(["a", "b"]),
        "tags": st.lists(st.sampled_from("xyz"), unique=True).map(lambda names: [Tag(name=name) for name in names]),
        "parts": st.dictionaries(part_ids, st.integers(0, 2)).map(
            lambda parts: [Part(id=key, pieces=pieces) for key, pieces in parts.items()]
        ),
        "sizes": st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 1), max_size=2)),
    }
)


def same(one: Product, other: Product) -> bool:
    return not one.diff(other)


@any_of(states, states)
def test_a_diff_folds_back(old_fields: dict[str, object], new_fields: dict[str, object]) -> None:
    new = stored(**new_fields)
    for pieces in (lambda diff: (diff,), lambda diff: diff.decompose()):
        old = stored(**old_fields)
        for diff in pieces(old.diff(new)):
            old.apply_diff(diff)
        assert same(old, new)
        assert {name: getattr(old, name) for name in new_fields} == {name: getattr(new, name) for name in new_fields}


@any_of(states, states)
def test_what_is_recorded_leads_from_one_state_to_the_other(
    old_fields: dict[str, object], new_fields: dict[str, object]
) -> None:
    product = stored(**old_fields)
    product.update(**new_fields)
    again = stored(**old_fields)
    again.replay(recorded(product), 1)
    assert same(again, product)
    assert bool(product.recorded) == bool(stored(**old_fields).diff(stored(**new_fields)))


# --- classes ---


def test_events_are_named_by_the_class_and_sent_to_its_topic() -> None:
    names = [definition_of(event_type) for event_type in Product.__folds__]
    assert [(one.name, one.topic) for one in names] == [
        ("ProductCreated", "products"),
        ("ProductUpdated.price", "products"),
        ("ProductUpdated.title", "products"),
        ("ProductUpdated.tags.create", "products"),
        ("ProductUpdated.tags.update", "products"),
        ("ProductUpdated.tags.delete", "products"),
        ("ProductUpdated.parts.create", "products"),
        ("ProductUpdated.parts.update", "products"),
        ("ProductUpdated.parts.delete", "products"),
        ("ProductUpdated.sizes", "products"),
        ("ProductDeleted", "products"),
    ]


def test_a_name_stays_when_the_class_is_renamed() -> None:
    class Article(RootEntity, name="Product"):
        price: Tracked[int]

    assert definition_of(Created[Article]).name == "ProductCreated"
    assert Article(AN_ID).stream == f"Product-{AN_ID}"


def test_a_subclass_has_events_of_its_own() -> None:
    class Book(Product):
        pages: Tracked[int] = tracked(default=0)

    assert definition_of(Created[Book]).name == "BookCreated"
    assert [definition_of(one).name for one in event_types_of(Book.price)] == ["BookUpdated.price"]
    given(Book).when(lambda book: book.update(price=1)).then(created(Book, price=1))


def test_what_a_class_stands_for() -> None:
    assert {event_types_of(Product.price)[0], Product.tags.created} < set(event_types_of(Updated[Product]))
    assert Changed[Product, int] is Updated[Product]
    for bare in (Created, Updated, Changed, Deleted):
        with pytest.raises(TypeError, match="stands for no events"):
            event_types_of(bare)
    with pytest.raises(TypeError, match="names no root entity"):
        _ = Created[int]  # type: ignore[type-var]  # which is what is wrong


def test_a_retired_field_is_passed_over_and_another_is_not() -> None:
    class Old(RootEntity, name="Thing"):
        colour: Tracked[Colour] = tracked(default=Colour.RED)
        tags: Tracked[ValueObjectSet[Tag]] = tracked(default_factory=ValueObjectSet)

    class New(RootEntity, name="Thing", retired=("colour", "tags")):
        size: Tracked[int] = tracked(default=1)

    known = {definition_of(one).name: one for one in New.__folds__}
    old = Old(AN_ID)
    old.replay([created(Old)], 1)
    old.update(tags=[Tag(name="x")])
    old.record_changes(NOW)
    new = New(AN_ID)
    events = [created(Old), *old.recorded]
    new.replay([codec_for(known[definition_of(type(e)).name]).decode(codec_for(type(e)).encode(e)) for e in events], 2)
    assert new.size == 1
    assert "ThingUpdated.size" in known
    assert "ThingUpdated.weight" not in known


def test_constants_of_the_class_are_no_fields() -> None:
    class Limited(RootEntity):
        LIMIT: ClassVar[int] = 3
        price: Tracked[Decimal]

    assert list(Limited.__tracked__) == ["price"]


class Node(ValueObject):
    children: tuple[Node, ...] = ()


def test_values_may_be_recursive() -> None:
    class Tree(RootEntity):
        top: Tracked[Node]

    given(Tree).when(lambda tree: tree.update(top=Node(children=(Node(),)))).then(
        created(Tree, top=Node(children=(Node(),)))
    )


class Something(Event):
    pass


class HoldsOne(ValueObject):
    one: Shop  # noqa: F821  # it is what is made below


def made(**annotations: object) -> None:
    """A class called Shop with these fields."""
    type("Shop", (RootEntity,), {"__annotations__": annotations, "__module__": __name__})


@pytest.mark.parametrize(
    ("name", "annotation", "told"),
    [
        *(
            (name, Tracked[int], f"Shop.{name} would hide an attribute of RootEntity")
            for name in (
                "id",
                "version",
                "created_at",
                "updated_at",
                "deleted_at",
                "recorded",
                "stream",
                "is_new",
                "update",
                "diff",
            )
        ),
        ("class", Tracked[int], "the field 'class' is a word of Python"),
        ("_price", Tracked[int], "the field '_price' is no name of a public attribute"),
        ("price", int, r"Shop.price would not be stored; write price: Tracked\[...\]"),
        ("price", Tracked[Callable[[], int]], "Shop.price is a .*, which has no JSON form"),
        ("price", Tracked[object.__class__], "Shop.price"),
        ("parts", Tracked[EntitySet], r"write: Tracked\[EntitySet\[YourMember\]\]"),
        ("other", Tracked["Shop"], "Shop.other: a field cannot hold a Shop.*hold its id: UUID"),
        ("others", Tracked[list["Shop"]], "Shop.others: a field cannot hold a Shop"),  # noqa: F821  # see HoldsOne
        ("within", Tracked[HoldsOne], "Shop.within: a field cannot hold a Shop"),
        ("product", Tracked[Product], "Shop.product: a field cannot hold a Product"),
        ("unknown", Tracked["Nowhere"], "has a type that is not known yet, Nowhere"),  # see the message
    ],
)
def test_a_field_that_cannot_be_is_refused_when_the_class_is_made(name: str, annotation: object, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        made(**{name: annotation})


def test_other_wrong_classes_are_refused_when_they_are_made() -> None:
    def on_something(self: object, event: Something) -> None: ...

    with pytest.raises(TypeError, match="a root entity records its own events: use Aggregate"):
        type("Shop", (RootEntity,), {"on_something": applies(on_something)})
    with pytest.raises(TypeError, match=r"Shop.price = 3 is no field; write price: Tracked\[...\] = tracked\(default"):
        type("Shop", (RootEntity,), {"__annotations__": {"price": Tracked[int]}, "price": 3})
    with pytest.raises(TypeError, match="one of the two"):
        tracked()  # type: ignore[call-overload]  # which is what is wrong
    with pytest.raises(TypeError, match="price is a field and retired"):
        type("Shop", (RootEntity,), {"__annotations__": {"price": Tracked[int]}}, retired=("price",))


# --- given, when, then ---


def test_a_root_is_told_by_its_events() -> None:
    given(Product, created(Product, price=3)).when(Product.discount).then(changed(Product.price, 2))
    given(Product).when(lambda product: product.update(price=3)).then(created(Product, price=3))
    given(Product, created(Product, price=3)).when(Product.delete).then(deleted(Product))
    given(Product, created(Product, price=0)).when(Product.discount).then_raises(ValidationError)
    given(Product, created(Product, price=3)).when(lambda product: product.tags.add(Tag(name="x"))).then(
        changed(Product.tags.created, Tag(name="x"))
    )
    with pytest.raises(TypeError, match=r"is a set; write which change"):
        changed(Product.tags, Tag(name="x"))
