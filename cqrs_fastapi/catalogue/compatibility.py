"""Whether data of one JSON schema can be read by another. In doubt it says no."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from math import inf
from typing import Any

from cqrs_fastapi.catalogue.schemas import Schema

_AT_LEAST = {"minimum": -inf, "exclusiveMinimum": -inf, "minLength": 0, "minItems": 0, "minProperties": 0}
_AT_MOST = {"maximum": inf, "exclusiveMaximum": inf, "maxLength": inf, "maxItems": inf, "maxProperties": inf}
"""With what holds where a schema does not say it."""
_EXACTLY = ("pattern", "format", "multipleOf", "uniqueItems", "contentEncoding", "propertyNames", "allOf", "$ref")


def unreadable(stored: Schema, reader: Schema, written_now: Schema) -> list[str]:
    """Why a class might not read data of the schema `stored`; empty if it does. It reads what it writes itself, so
    places of `written_now` that are as in `stored` are not looked at. Fields it does not know are ignored by it.
    """
    return list(_Comparison(lost_matters=False).of(stored, reader, written_now, ""))


def lost(before: Schema, after: Schema) -> list[str]:
    """What consumers miss who read `before`, with every field of it, and get `after`."""
    return list(_Comparison(lost_matters=True).of(after, before, before, ""))


class _Comparison:
    """`given` is data's schema, `wanted` that of its reader."""

    def __init__(self, *, lost_matters: bool) -> None:
        self._lost_matters = lost_matters

    def of(self, given: Any, wanted: Any, same: Any, place: str) -> Iterator[str]:
        """`same` is what is known to be readable by `wanted`."""
        if given in (wanted, same) or wanted in (True, {}):
            return
        if options := _options(given):
            for option in options:
                yield from self.of(option, wanted, None, place)
        elif options := _options(wanted):
            if all(any(self.of(given, option, None, place)) for option in options):
                yield f"{_at(place)}{_told(given)} where {' or '.join(map(_told, options))} is read"
        elif not isinstance(given, dict) or not isinstance(wanted, dict) or _type_differs(given, wanted):
            yield f"{_at(place)}{_told(given)} where {_told(wanted)} is read"
        else:
            yield from self._values(given, wanted, place)
            yield from self._limits(given, wanted, place)
            yield from self._items(given, wanted, same, place)
            yield from self._fields(given, wanted, same, place)

    def _values(self, given: Schema, wanted: Schema, place: str) -> Iterator[str]:
        accepted, values = _values_of(wanted), _values_of(given)
        if accepted is not None and (values is None or any(value not in accepted for value in values)):
            yield f"{_at(place)}a value that is none of {accepted}"

    def _limits(self, given: Schema, wanted: Schema, place: str) -> Iterator[str]:
        for key, least in _AT_LEAST.items():
            if given.get(key, least) < wanted.get(key, least):
                yield _beyond(key, given, wanted, place)
        for key, most in _AT_MOST.items():
            if given.get(key, most) > wanted.get(key, most):
                yield _beyond(key, given, wanted, place)
        for key in _EXACTLY:
            if key in wanted and given.get(key) != wanted[key]:
                yield _beyond(key, given, wanted, place)

    def _items(self, given: Schema, wanted: Schema, same: Any, place: str) -> Iterator[str]:
        known = same if isinstance(same, dict) else {}
        fixed: list[Any] = given.get("prefixItems", [])
        pairs: Iterator[tuple[Any, Any]] = zip_longest(fixed, wanted.get("prefixItems", []), fillvalue={})
        for number, (one, other) in enumerate(pairs):
            yield from self.of(one, other, None, f"{place}[{number}]")
        if "items" in wanted:
            yield from self.of(given.get("items", {}), wanted["items"], known.get("items"), f"{place}[]")

    def _fields(self, given: Schema, wanted: Schema, same: Any, place: str) -> Iterator[str]:
        known = same.get("properties", {}) if isinstance(same, dict) else {}
        fields, readable = given.get("properties", {}), wanted.get("properties", {})
        for name in sorted(set(wanted.get("required", ())) - set(given.get("required", ()))):
            yield f"{_at(_inside(place, name))}{'may be missing' if name in fields else 'is missing'}"
        for name, wanted_field in readable.items():
            inside = _inside(place, name)
            if name in fields:
                yield from self.of(fields[name], wanted_field, known.get(name), inside)
            elif self._lost_matters and name not in wanted.get("required", ()):
                yield f"{_at(inside)}is missing"
        rest = wanted.get("additionalProperties", True)
        if rest is False:
            for name in sorted(set(fields) - set(readable)):
                yield f"{_at(_inside(place, name))}is refused"
        elif isinstance(rest, dict):
            yield from self.of(given.get("additionalProperties", {}), rest, None, f"{place}.*")


def _beyond(key: str, given: Schema, wanted: Schema, place: str) -> str:
    before = f"{key} {given[key]}" if key in given else f"no {key}"
    return f"{_at(place)}{before} where {key} {wanted[key]} is read"


def _options(schema: Any) -> list[Any]:
    """The branches of a schema that has some."""
    if not isinstance(schema, dict):
        return []
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": one} for one in schema["type"]]
    branches: list[Any] = schema.get("anyOf") or schema.get("oneOf") or []
    return branches


def _type_differs(given: Schema, wanted: Schema) -> bool:
    found, needed = given.get("type"), wanted.get("type")
    return needed is not None and found != needed and (found, needed) != ("integer", "number")


def _values_of(schema: Schema) -> list[Any] | None:
    values: list[Any] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return values


def _told(schema: Any) -> str:
    if not isinstance(schema, dict) or not schema:
        return "anything"
    return str(schema.get("format") or schema.get("type") or schema.get("$ref") or "something else")


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _at(place: str) -> str:
    return f"{place}: " if place else ""
