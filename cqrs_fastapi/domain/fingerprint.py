"""A short text that changes when the folds of an aggregate class, or what they are given, may have changed."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, get_args, get_type_hints
from uuid import UUID

from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json

from cqrs_fastapi.domain.fields import Initial
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.forms import is_struct
from cqrs_fastapi.messages.registry import EventRegistry

_FORM = 1
"""Of stored states; raise it when the library reads or writes them in another way."""
_PLAIN = (int, float, complex, str, bytes, type(None), type(...), Decimal, UUID, date, time, timedelta, Enum)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_INNER = ("fget", "fset", "fdel", "func", "__func__", "__wrapped__")
"""Where properties, static methods and wrappers keep their functions."""


def fingerprint_of(cls: type, events: Iterable[type], fields: Mapping[str, Any]) -> str:
    """Of an aggregate's class, the events that it folds, and the types of its state.

    It covers their schemas, the bytecode of all functions of the class, and the functions, classes and constants that
    they name, as far as these are defined in the same top-level package. It cannot see what is reached otherwise: code
    of other packages, values that are computed, files and rows. A difference without a meaning, as in a docstring or
    in another minor version of Python, costs one replay of each aggregate.
    """
    reader = _Reader({_package(cls)})
    told = [f"form {_FORM} {sys.implementation.cache_tag}"]
    told += [f"{name} {_schema(kind)} {reader.describe(kind)}" for name, kind in fields.items()]
    told += [f"{definition_of(event)} {_schema(event)} {reader.describe(event)}" for event in events]
    told += [reader.describe(cls), *reader.all()]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


@lru_cache(maxsize=16)
def fingerprint_of_upcasters(registry: EventRegistry) -> str:
    """Of what stored events become before they are folded. It covers all upcasters, and what they call, as above."""
    functions = [one.function for one in registry.upcasters]
    reader = _Reader({_package(function) for function in functions})
    told = [f"{one.name} {one.version} {one.into} {reader.describe(one.function)}" for one in registry.upcasters]
    return hashlib.sha256("\n".join([*sorted(told), *reader.all()]).encode()).hexdigest()[:8] if told else ""


def _package(thing: Any) -> str:
    return str(thing.__module__).partition(".")[0]


def _schema(kind: Any) -> str:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return to_json((adapter.json_schema(), adapter.json_schema(mode="serialization"))).decode()


class _Reader:
    """Describes things by texts that are the same in each process. Functions and classes of the package are named by
    those, and described once.
    """

    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages
        self._found: dict[int, FunctionType | type] = {}

    def all(self) -> list[str]:
        """All that was named, and what that names, and so on."""
        texts: dict[int, str] = {}
        while todo := [one for key, one in self._found.items() if key not in texts]:
            for one in todo:
                parts = self._class(one) if isinstance(one, type) else self._function(one)
                texts[id(one)] = f"{_name(one)} {' '.join(parts)}"
        return sorted(texts.values())

    def describe(self, thing: Any) -> str:  # noqa: PLR0911  # a case for each kind of thing
        if isinstance(thing, FunctionType | type):
            if _package(thing) in self._packages:
                self._found[id(thing)] = thing
            return _name(thing)
        if isinstance(thing, CodeType):
            return self._code(thing)
        if isinstance(thing, _PLAIN):
            return f"{type(thing).__name__}:{thing!r}"
        if isinstance(thing, Initial):
            return self.describe(thing.make)
        if isinstance(thing, tuple | list):
            return f"[{' '.join(map(self.describe, thing))}]"
        if isinstance(thing, set | frozenset):
            return f"{{{' '.join(sorted(map(self.describe, thing)))}}}"
        if isinstance(thing, dict):
            return f"{{{' '.join(f'{self.describe(key)}={self.describe(value)}' for key, value in thing.items())}}}"
        return self._other(thing)

    def _other(self, thing: Any) -> str:
        """A value by its representation, a wrapper and an annotation by what is in them, the rest by its class."""
        kind = type(thing)
        if is_dataclass(kind) or issubclass(kind, BaseModel) or is_struct(kind):
            return f"{self.describe(kind)}:{_ADDRESS.sub('', repr(thing))}"
        inner = [getattr(thing, name) for name in _INNER if getattr(thing, name, None) is not None]
        parts = " ".join(map(self.describe, (*inner, *get_args(thing))))
        return f"{_name(kind)}({parts})"

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield self.describe((function.__code__, function.__defaults__, function.__kwdefaults__))
        yield from (self.describe(cell.cell_contents) for cell in function.__closure__ or () if _is_set(cell))
        named = sorted(set(_names(function.__code__)) & function.__globals__.keys())
        yield from (f"{name}={self.describe(function.__globals__[name])}" for name in named)

    def _class(self, cls: type) -> Iterator[str]:
        yield self.describe(cls.__bases__)
        yield self.describe(_hints(cls))
        for name, value in sorted(vars(cls).items()):
            is_data = not callable(value) and not hasattr(type(value), "__get__")
            if not (is_data and name.startswith(("__", "_abc_"))):
                yield f"{name}={self.describe(value)}"

    def _code(self, code: CodeType) -> str:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        return self.describe((counts, names, code.co_code, code.co_exceptiontable, code.co_consts))


def _names(code: CodeType) -> Iterator[str]:
    """Of globals and attributes, which bytecode does not tell apart, here and in inner functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:  # a name of a function around it, or one for checkers only: its text has to do
        return dict(vars(cls).get("__annotations__", {}))


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _name(thing: Callable[..., object] | type) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
