"""What a field of a root entity may hold: validated by pydantic, compared by the JSON that would be stored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import PydanticSerializationError, from_json

from cqrs_fastapi.domain.finding.fields import field_of
from cqrs_fastapi.domain.finding.rendering import render_state
from cqrs_fastapi.domain.finding.texts import SearchError
from cqrs_fastapi.domain.sets import Changes, EntitySet, ValueObjectSet
from cqrs_fastapi.messages.personal import PersonalField

_IMMUTABLE = frozenset({NoneType, bool, int, float, str, bytes, UUID, date, datetime, time, timedelta, Decimal})


class FieldCodec:
    """One field: `owner` is the name of its class; `initial` makes what it has if it is not given. A form is JSON."""

    __slots__ = ("_adapter", "_field", "annotation", "initial", "name", "owner", "personal")

    def __init__(
        self,
        owner: str,
        name: str,
        annotation: Any,
        initial: Callable[[], object] | None = None,
        personal: PersonalField | None = None,
    ) -> None:
        """A TypeError says what is wrong with the type. `personal` tells how its values are encrypted, if they are."""
        self.personal = personal
        self.owner, self.name, self.annotation, self.initial = owner, name, annotation, initial
        self._adapter = _adapter_for(f"{owner}.{name}", owner, annotation)
        self._field = field_of(name, annotation)

    def checked(self, value: object) -> Any:
        """The value as it would be read after it was stored: a copy that nobody else holds. Raises pydantic's
        ValidationError, or a ValueError if it could not be stored.
        """
        valid = self._adapter.validate_python(value)
        form = self.form(valid)
        self.row_value(form)
        return valid if type(valid) in _IMMUTABLE else self.read(form)

    def form(self, value: object) -> bytes:
        """Its JSON, as it is stored. A ValueError says why it has none."""
        try:
            return self._adapter.dump_json(value, warnings="error")
        except (PydanticSerializationError, ValueError) as error:
            raise ValueError(f"{self}: this {type(value).__name__} cannot be written as JSON: {error}") from None

    def row_value(self, form: bytes) -> Any:
        """What the row of the root entity has of it. A ValueError for what not every database can hold."""
        try:
            return render_state((self._field,), {self.name: from_json(form)})[self.name]
        except SearchError as error:
            raise ValueError(f"{self.owner}.{error}") from None

    def read(self, form: bytes) -> Any:
        """The value of a form, a new one each time."""
        return self._adapter.validate_json(form)

    def same(self, form: bytes, other: bytes) -> bool:
        """Whether two forms say the same. Sets and mappings have no order, so their JSON may be a permutation."""
        if form == other:
            return True
        return len(form) == len(other) and sorted(form) == sorted(other) and bool(self.read(form) == self.read(other))

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


class SetCodec(FieldCodec):
    """The field is an EntitySet or a ValueObjectSet, whose changes are told member by member."""

    __slots__ = ("member",)

    def __init__(self, owner: str, name: str, annotation: Any, initial: Callable[[], object] | None = None) -> None:
        super().__init__(owner, name, annotation, initial)
        self.member = FieldCodec(owner, name, get_args(annotation)[0])

    def changes(self, before: bytes, after: bytes) -> Changes[Any]:
        """What lies between two forms."""
        changes: Changes[Any] = self.read(after).since(self.read(before))
        return changes

    def applied(self, before: object, changes: Changes[Any]) -> Any:
        """A set of its own with the changes made."""
        value = self.read(self.form(before))
        value.apply(changes)
        return self.checked(value)


def codec_of(owner: str, name: str, annotation: Any, initial: Callable[[], object] | None) -> FieldCodec:
    """By what the annotation says. A TypeError says what is wrong with it."""
    if annotation in (EntitySet, ValueObjectSet):
        kind = annotation.__name__
        raise TypeError(f"{owner}.{name} does not say what its members are; write: Tracked[{kind}[YourMember]]")
    codec = SetCodec if get_origin(annotation) in (EntitySet, ValueObjectSet) else FieldCodec
    return codec(owner, name, annotation, initial)


def is_immutable(value: object) -> bool:
    """Whether it cannot be changed in place."""
    return type(value) in _IMMUTABLE or isinstance(value, Enum)


def unknown(place: str, owner: str, name: str) -> str:
    """The sentence for a type that cannot be found."""
    if name == owner:
        return f"{place}: {in_a_field(owner)}"
    return f"{place} has a type that is not known yet, {name}; define it above {owner}, at module level"


def in_a_field(root: str) -> str:
    """The sentence for a field that holds a root entity."""
    return (
        f"a field cannot hold a {root}: root entities are stored each by itself, and references between them would run "
        f"in circles; hold its id: UUID"
    )


def _adapter_for(place: str, owner: str, annotation: Any) -> TypeAdapter[Any]:
    """Checked to give JSON and to read it."""
    try:
        _complete(annotation)
        adapter = _adapter_of(annotation)
        adapter.json_schema(mode="serialization")
    except PydanticUndefinedAnnotation as error:
        raise TypeError(unknown(place, owner, str(error.name))) from None
    except PydanticUserError as error:
        reason = str(error).splitlines()[0]
        raise TypeError(
            f"{place} is a {_shown(annotation)}, which has no JSON form ({reason}); use types that pydantic writes as "
            f"JSON and reads again"
        ) from None
    except TypeError as error:
        raise TypeError(f"{place}: {error}") from None
    return adapter


def _complete(annotation: Any) -> None:
    """Have models that wait for a class ask for it again, so that an error tells which one it is."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        annotation.model_rebuild(_types_namespace={})
    for inner in get_args(annotation):
        _complete(inner)


def _adapter_of(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(ser_json_inf_nan="strings"))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(annotation)  # it brings a configuration of its own


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
