"""Dataclasses and msgspec structs as messages: a mark on the class, outermost, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from cqrs_fastapi.messages.events import (
    EventDefinition,
    checked_aliases,
    checked_version,
    require_fields,
    require_key,
)
from cqrs_fastapi.messages.requests import Command, Query, Request, StreamRequest

C = TypeVar("C", bound=type)

Kind = Literal["command", "query", "stream"]


def event(
    *,
    name: str | None = None,
    version: int = 1,
    topic: str | None = None,
    tags: Sequence[str] = (),
    aliases: Sequence[str] = (),
    subject: str | None = None,
    key: str | None = None,
) -> Callable[[C], C]:
    """Make an event of a dataclass or a msgspec struct; the arguments are those of `Event`."""

    def mark(cls: C) -> C:
        _require_form(cls, "event")
        require_fields(cls, tags, _fields_of(cls))
        named = name or cls.__name__
        former = checked_aliases(cls, named, aliases)
        require_key(cls, key, topic)
        definition = EventDefinition(named, checked_version(cls, version), topic, tuple(tags), former, subject, key)
        cls.__event__ = definition  # type: ignore[attr-defined]  # a mark on a class of the user's
        return cls

    return mark


def command(cls: C) -> C:
    """Make a command of a dataclass or a msgspec struct that inherits `Request[R]`."""
    return _mark_request(cls, "command")


def query(cls: C) -> C:
    """Make a query of a dataclass or a msgspec struct that inherits `Request[R]`."""
    return _mark_request(cls, "query")


def kind_of(cls: type) -> Kind | None:
    """Whether a class is a command, a query, a stream request, or none of them."""
    if issubclass(cls, StreamRequest):
        return "stream"
    if issubclass(cls, Command):
        return "command"
    if issubclass(cls, Query):
        return "query"
    kind: Kind | None = cls.__dict__.get("__request_kind__")
    return kind


def is_struct(cls: type) -> bool:
    """Whether a class is a msgspec struct; msgspec itself need not be installed to ask."""
    return hasattr(cls, "__struct_fields__")


def _mark_request(cls: C, kind: Kind) -> C:
    _require_form(cls, kind)
    if not issubclass(cls, Request):
        raise TypeError(f"@{kind} {cls.__name__} does not say what it answers: inherit Request[YourResult]")
    cls.__request_kind__ = kind  # type: ignore[attr-defined]  # a mark on a class of the user's
    return cls


def _fields_of(cls: type) -> Sequence[str]:
    if is_struct(cls):
        fields: Sequence[str] = cls.__struct_fields__  # type: ignore[attr-defined]  # it has just been asked
        return fields
    return [field.name for field in dataclasses.fields(cls)]


def _require_form(cls: type, kind: str) -> None:
    if not dataclasses.is_dataclass(cls) and not is_struct(cls):
        raise TypeError(
            f"@{kind} must stand above @dataclass or on a msgspec struct, and {cls.__name__} is neither (yet): "
            f"put @{kind} outermost"
        )
