"""Reads which fields a class of root entities has, and refuses those that it cannot have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from keyword import iskeyword
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from cqrs_fastapi.domain.field_codec import FieldCodec, codec_of, unknown
from cqrs_fastapi.domain.sets import EntitySet, ValueObjectSet
from cqrs_fastapi.domain.tracked import Initial, Tracked, TrackedField
from cqrs_fastapi.messages.personal import holds_marks, personal_field

_ELSEWHERE = frozenset({"id", "version", "created_at", "updated_at", "deleted_at", "recorded_state"})
"""What instances have, besides what the class shows."""


def fields_of(cls: type, root: type, retired: Sequence[str]) -> dict[str, FieldCodec]:
    """The fields of `cls`, inherited ones first; `root` is the base of all. A TypeError says which one is wrong."""
    own = _ELSEWHERE | {name for name in dir(root) if not name.startswith("__")}
    fields: dict[str, FieldCodec] = {}
    for name, annotation in _annotations(cls, root):
        _check_name(cls, name, own)
        if get_origin(annotation) is not Tracked:
            raise TypeError(
                f"{cls.__name__}.{name} would not be stored; write {name}: Tracked[...], or ClassVar[...] for what "
                f"belongs to the class"
            )
        (of,) = get_args(annotation)
        fields[name] = _field(cls, name, of)
    if both := [name for name in retired if name in fields]:
        raise TypeError(f"{cls.__name__}: {', '.join(both)} is a field and retired; it is one or the other")
    return fields


def _field(cls: type, name: str, annotation: Any) -> FieldCodec:
    initial = _initial(cls, name)
    field = codec_of(cls.__name__, name, annotation, initial)
    if not holds_marks(annotation):
        return field
    of = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(of) in (EntitySet, ValueObjectSet):
        raise TypeError(
            f"{cls.__name__}.{name} is a set with personal data, and its members are told and stored one by one; write "
            f"{name}: Tracked[Annotated[list[...], PersonalData(forgotten=[])]], whose value is encrypted as a whole"
        )
    bare, personal = personal_field(cls, name, annotation, "id")
    return FieldCodec(cls.__name__, name, bare, initial, personal)


def _annotations(cls: type, root: type) -> Iterator[tuple[str, Any]]:
    hints = _hints(cls)
    for parent in reversed(cls.__mro__):
        if parent is not root and issubclass(parent, root):
            for name in inspect.get_annotations(parent):
                if get_origin(hints[name]) is not ClassVar and hints[name] is not ClassVar:
                    yield name, hints[name]


def _hints(cls: type) -> Mapping[str, Any]:
    """The class itself is not a name yet while it is being made."""
    try:
        return get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
    except NameError as error:
        raise TypeError(unknown(f"a field of {cls.__name__}", cls.__name__, str(error.name))) from None


def _check_name(cls: type, name: str, own: frozenset[str]) -> None:
    if name in own:
        raise TypeError(f"{cls.__name__}.{name} would hide an attribute of RootEntity; give the field another name")
    if iskeyword(name) or not name.isidentifier() or name.startswith("_"):
        why = "is a word of Python" if iskeyword(name) else "is no name of a public attribute"
        raise TypeError(f"{cls.__name__}: the field {name!r} {why}; give it another name")


def _initial(cls: type, name: str) -> Callable[[], object] | None:
    given = next((vars(parent)[name] for parent in cls.__mro__ if name in vars(parent)), None)
    if isinstance(given, TrackedField):  # a field of a class above this one
        return given._codec.initial  # noqa: SLF001  # a public name would hide a field of what it holds
    if isinstance(given, Initial):
        return given.make
    if given is not None:
        where = f"{cls.__name__}.{name}"
        raise TypeError(f"{where} = {given!r} is no field; write {name}: Tracked[...] = tracked(default=...)")
    return None
