"""What happens to root entities: for each class of them, events of its own, made with the class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, create_model

from cqrs_fastapi.domain.diffs import Diff
from cqrs_fastapi.domain.field_codec import FieldCodec, SetCodec
from cqrs_fastapi.domain.sets import Changes
from cqrs_fastapi.messages.events import AnyEvent, Event

if TYPE_CHECKING:
    from cqrs_fastapi.domain.root_entity import RootEntity

R_co = TypeVar("R_co", bound="RootEntity", covariant=True)
T_co = TypeVar("T_co", covariant=True)

Action: TypeAlias = Literal["set", "create", "update", "delete"]
MEMBER_ACTIONS: Final = ("create", "update", "delete")


def _event_of(cls: type[AnyEvent], root: Any, which: str) -> Any:
    """At run time `Created[Product]` is the class that was made for Product; with a type variable it is the base."""
    of = root[0] if isinstance(root, tuple) else root
    if isinstance(of, TypeVar):
        return cls
    events = getattr(of, "__events__", None)
    if not isinstance(events, RootEvents):
        raise TypeError(f"{cls.__name__}[{getattr(of, '__name__', of)}] names no root entity; inherit from RootEntity")
    return getattr(events, which)


class Created(Event, Generic[R_co]):
    """`Created[Product]`: a root entity began, with these fields. Stored as `ProductCreated`.

    `at` is the time of the unit of work, the root's `created_at`; it is part of the event, so that it is the same for
    the handler that creates, for whoever reads the event, and after every replay.
    """

    if not TYPE_CHECKING:
        __event_types__ = ()  # by itself it stands for none

    id: UUID
    at: datetime
    fields: Any
    """A frozen dataclass with all fields by their names; one that is missing in the stored event has its default."""

    def __class_getitem__(cls, root: Any) -> Any:
        return _event_of(cls, root, "created")


class Updated(Event, Generic[R_co]):
    """`Updated[Product]`: whatever changed in a root entity, one field at a time: each change is an event of its own.

    Stored as `ProductUpdated.price`. `diff` is the change by the field's name, which folds into an older state.
    """

    if not TYPE_CHECKING:
        __event_types__ = ()  # by itself it stands for none

    id: UUID
    at: datetime

    field: ClassVar[str] = ""
    """The name of the field that changed."""

    def __class_getitem__(cls, root: Any) -> Any:
        return _event_of(cls, root, "updated")

    @property
    def diff(self) -> Diff:
        """The change, by the field's name."""
        return Diff({})


class Changed(Updated[R_co], Generic[R_co, T_co]):
    """`Changed[Product, int]`: what a handler of `Product.price` takes. `value` is the new value of the field.

    For an EntitySet or a ValueObjectSet it is the member that came, changed or went, as `action` tells:
    `ProductUpdated.tags.create`, `.update` and `.delete`.
    """

    if not TYPE_CHECKING:
        __event_types__ = ()  # by itself it stands for none

    value: T_co

    action: ClassVar[Action] = "set"

    @property
    def diff(self) -> Diff:
        """The change, by the field's name."""
        if self.action == "set":
            return Diff({self.field: self.value})
        return Diff({self.field: Changes(**{f"{self.action}d": (self.value,)})})


class Deleted(Event, Generic[R_co]):
    """`Deleted[Product]`: a root entity is gone. Stored as `ProductDeleted`."""

    if not TYPE_CHECKING:
        __event_types__ = ()  # by itself it stands for none

    id: UUID
    at: datetime

    def __class_getitem__(cls, root: Any) -> Any:
        return _event_of(cls, root, "deleted")


@dataclass(frozen=True, slots=True)
class RootEvents:
    """The events of one class of root entities. `state` reads and writes all fields together."""

    created: type[Created[Any]]
    updated: type[Updated[Any]]
    deleted: type[Deleted[Any]]
    changed: Mapping[str, Sequence[type[Changed[Any, Any]]]]
    """By the name of the field: one class, or those for members that come, change and go."""
    retired: Sequence[type[Changed[Any, Any]]]
    """Of fields that the class had once."""
    state: TypeAdapter[Any]


def events_for(name: str, topic: str | None, fields: Mapping[str, FieldCodec], retired: Sequence[str]) -> RootEvents:
    """Make the classes."""
    state = _state_of(name, fields)
    created = _made(f"{name}Created", Created, topic, {"fields": (state, ...)})
    created.__personal__ = tuple(replace(one.personal, within="fields") for one in fields.values() if one.personal)
    updated = _made(f"{name}Updated", Updated, topic, {})
    changed = {field.name: _changes_of(field, updated, name, topic) for field in fields.values()}
    updated.__event_types__ = tuple(one for several in changed.values() for one in several)
    return RootEvents(
        created,
        updated,
        _made(f"{name}Deleted", Deleted, topic, {}),
        changed,
        tuple(one for field in retired for one in _retired(field, updated, name, topic)),
        TypeAdapter(state),
    )


def _changes_of(field: FieldCodec, updated: Any, name: str, topic: str | None) -> Sequence[type[Any]]:
    stored = f"{name}Updated.{field.name}"
    if isinstance(field, SetCodec):
        made = [(action, f"{stored}.{action}", field.member.annotation) for action in MEMBER_ACTIONS]
    else:
        made = [("set", stored, field.annotation)]
    changes = [_made(each, (updated, Changed), topic, {"value": (annotation, ...)}) for _, each, annotation in made]
    for change, (action, _, _) in zip(changes, made, strict=True):
        change.field, change.action = field.name, action
        if field.personal is not None:
            change.__personal__ = (replace(field.personal, name="value", key="value"),)
    return changes


def _retired(field: str, updated: Any, name: str, topic: str | None) -> Sequence[type[Any]]:
    """Whatever was stored of it can be read, and is passed over."""
    stored = f"{name}Updated.{field}"
    names = (stored, *(f"{stored}.{action}" for action in MEMBER_ACTIONS))
    return [_made(each, (updated, Changed), topic, {"value": (Any, None)}) for each in names]


def _made(stored: str, base: Any, topic: str | None, fields: Mapping[str, Any]) -> Any:
    definition = {"name": stored, "topic": topic}
    return create_model(stored.replace(".", "_"), __base__=base, __cls_kwargs__=definition, **fields)


def _state_of(name: str, fields: Mapping[str, FieldCodec]) -> type[Any]:
    """A dataclass: its fields may have any name."""
    return dataclasses.make_dataclass(
        f"{name}Fields",
        [(field.name, field.annotation, _default_of(field)) for field in fields.values()],
        frozen=True,
        kw_only=True,
        namespace={"__pydantic_config__": ConfigDict(ser_json_inf_nan="strings")},
    )


def _default_of(field: FieldCodec) -> Any:
    return dataclasses.field() if field.initial is None else dataclasses.field(default_factory=field.initial)
