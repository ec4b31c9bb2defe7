"""Fields that hold personal data: whose it is, and what such a field reads as once that person is forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

T = TypeVar("T")

FORGOTTEN = "(forgotten)"
"""What a personal text reads as once its subject is forgotten, unless the field says something else."""


@dataclasses.dataclass(frozen=True, slots=True)
class PersonalData:
    """Marks a field of an event: `Annotated[date, PersonalData(subject="child_id", forgotten=date(1, 1, 1))]`.

    `subject` names the field that says whose data it is, by default the one that the class names. `forgotten` is what
    the field reads as once that subject is forgotten, a value of the field's own type: by default "(forgotten)" for
    text, else None where the field may be None.
    """

    subject: str | None = None
    forgotten: Any = ...


Personal: TypeAlias = Annotated[T, PersonalData()]
"""`email: Personal[str]`, in `class CustomerRegistered(Event, subject="customer_id")`."""


@dataclasses.dataclass(frozen=True, slots=True)
class PersonalField:
    """A field whose value is encrypted. `key` is its name in the JSON; `forgotten` is JSON, `placeholder` its value.
    `within` names the field of the event that it is a field of, if it is not one of the event itself.
    """

    name: str
    key: str
    subject: str
    forgotten: str
    placeholder: Any
    within: str = ""

    @property
    def path(self) -> str:
        """Where it stands in the JSON."""
        return f"{self.within}.{self.key}" if self.within else self.key

    def of(self, event: Any) -> Any:
        """Its value."""
        return getattr(getattr(event, self.within) if self.within else event, self.name)


class _Field(NamedTuple):
    annotation: Any
    metadata: Sequence[Any]
    key: str


def personal_fields(cls: type, subject: str | None, tags: Sequence[str]) -> tuple[PersonalField, ...]:
    """The marked fields of an event class. A TypeError says what is wrong with a mark.

    Only fields of the event itself are marked; each is encrypted as a whole, whatever it holds. A class that the
    library makes brings them along as `__personal__`.
    """
    made: tuple[PersonalField, ...] | None = vars(cls).get("__personal__")
    if made is not None:
        return made
    fields = _fields(cls)
    marks = {name: mark for name, field in fields.items() if (mark := _mark(cls, name, field)) is not None}
    if not marks:
        if subject is not None:
            raise TypeError(f"{cls.__name__} names the subject {subject!r} and has no personal field: Personal[...]")
        return ()
    _require_plain_form(cls)
    for name in marks:
        if name in tags:
            raise TypeError(
                f"{cls.__name__}.{name} is personal and a tag, and tags are stored as they are, for conditions; "
                f"tag another field"
            )
    found: list[PersonalField] = []
    for name, mark in marks.items():
        whose = mark.subject or subject
        if whose is None:
            raise TypeError(
                f"{cls.__name__}.{name} is personal, and nothing says whose; name the field that does: "
                f"class {cls.__name__}(Event, subject='customer_id')"
            )
        if whose not in fields or whose in marks:
            what = "a personal field" if whose in marks else "no field of the event"
            raise TypeError(
                f"{cls.__name__}.{name} has the subject {whose!r}, which is {what}; name a field with an identifier"
            )
        text, placeholder = _placeholder(cls, name, fields[name], mark)
        found.append(PersonalField(name, fields[name].key, whose, text, placeholder))
    return tuple(found)


def personal_field(cls: type, name: str, annotation: Any, subject: str) -> tuple[Any, PersonalField | None]:
    """The annotation of a field without its mark, and what the mark says. `subject` is the only one that it may have. A
    TypeError says what is wrong with the mark.
    """
    field = _field(annotation, name)
    mark = _mark(cls, name, field)
    if mark is None:
        return annotation, None
    if mark.subject not in (None, subject):
        raise TypeError(
            f"{cls.__name__}.{name} has the subject {mark.subject!r}; what is personal in a {cls.__name__} is about "
            f"the one with its {subject}: leave subject= out, and give other persons a root entity of their own"
        )
    text, placeholder = _placeholder(cls, name, field, mark)
    others = tuple(one for one in field.metadata if not isinstance(one, PersonalData))
    bare = Annotated[(field.annotation, *others)] if others else field.annotation
    return bare, PersonalField(name, name, subject, text, placeholder)


def _placeholder(cls: type, name: str, field: _Field, mark: PersonalData) -> tuple[str, Any]:
    """As JSON, and as it was given."""
    candidates = (FORGOTTEN, None) if mark.forgotten is ... else (mark.forgotten,)
    for candidate in candidates:
        text = _json(candidate)
        if text is not None and _fits(cls, field, text):
            return text.decode(), candidate
    told = "nothing" if mark.forgotten is ... else f"forgotten={mark.forgotten!r}"
    raise TypeError(
        f"{cls.__name__}.{name} has {told} to read as once its subject is forgotten; write "
        f"Annotated[..., PersonalData(forgotten=...)] with a value of its own type, or let it be None"
    )


def _json(value: Any) -> bytes | None:
    try:
        return to_json(value)
    except PydanticSerializationError:
        return None


def _fits(cls: type, field: _Field, data: bytes) -> bool:
    """Whether the field can be read from it. Validators of the class are not asked."""
    if hasattr(cls, "__struct_fields__"):
        import msgspec  # noqa: PLC0415  # an extra: only who defines a struct needs it

        try:
            msgspec.json.decode(data, type=field.annotation)
        except msgspec.ValidationError:
            return False
        return True
    annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        TypeAdapter(annotation).validate_json(data)
    except ValidationError:
        return False
    return True


def _mark(cls: type, name: str, field: _Field) -> PersonalData | None:
    found = [one for one in field.metadata if isinstance(one, PersonalData)]
    if PersonalData in field.metadata:
        raise TypeError(f"{cls.__name__}.{name}: write PersonalData(), with brackets")
    if holds_marks(field.annotation):
        raise TypeError(
            f"{cls.__name__}.{name} is not personal as a whole, but something in it is; mark the whole field: "
            f"{name}: Personal[...]"
        )
    return found[-1] if found else None


def holds_marks(annotation: Any) -> bool:
    """Whether something in it is personal, or all of it."""
    return any(_marks_within(annotation, set()))


def _marks_within(annotation: Any, seen: set[Any]) -> Iterator[bool]:
    """One for each mark below a field: in a union, in a list, in the fields of a value."""
    if get_origin(annotation) is Annotated:
        yield from (True for one in annotation.__metadata__ if isinstance(one, PersonalData))
    for argument in get_args(annotation):
        yield from _marks_within(argument, seen)
    if isinstance(annotation, type) and annotation not in seen and _has_fields(annotation):
        seen.add(annotation)
        for field in _fields(annotation).values():
            yield from (True for one in field.metadata if isinstance(one, PersonalData))
            yield from _marks_within(field.annotation, seen)


def _has_fields(cls: type) -> bool:
    return (
        (issubclass(cls, BaseModel) and cls is not BaseModel)
        or dataclasses.is_dataclass(cls)
        or hasattr(cls, "__struct_fields__")
    )


def _fields(cls: type) -> dict[str, _Field]:
    """What the class holds, by name, whatever form it has."""
    if issubclass(cls, BaseModel):
        if not cls.__pydantic_complete__:  # its marks are not known before its types are
            cls.model_rebuild()
        return {name: _Field(one.annotation, one.metadata, name) for name, one in cls.model_fields.items()}
    if hasattr(cls, "__struct_fields__"):
        keys = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))  # type: ignore[attr-defined]  # a struct has both
    else:
        keys = {field.name: field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # it is one, else nobody asks
    hints = get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
    return {name: _field(hints[name], key) for name, key in keys.items()}


def _field(annotation: Any, key: str) -> _Field:
    if get_origin(annotation) is Annotated:
        return _Field(annotation.__origin__, annotation.__metadata__, key)
    return _Field(annotation, (), key)


def _require_plain_form(cls: type) -> None:
    """Refuse what would write the value of a personal field under another name, where nobody encrypts it."""
    reason = _rewrites(cls)
    if reason is not None:
        raise TypeError(
            f"{cls.__name__} has personal fields and {reason}, which would store them in clear; leave it out"
        )


def _rewrites(cls: type) -> str | None:
    if hasattr(cls, "__struct_config__"):
        return "array_like=True" if cls.__struct_config__.array_like else None
    if not issubclass(cls, BaseModel):
        return None
    decorators = cls.__pydantic_decorators__
    if cls.model_computed_fields:
        return f"the computed field {next(iter(cls.model_computed_fields))}"
    if decorators.model_serializers:
        return "a serializer of the model"
    aliased = [name for name, one in cls.model_fields.items() if one.alias or one.serialization_alias]
    return f"the alias of {aliased[0]}" if aliased else None
