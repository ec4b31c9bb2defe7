"""Reads in compiled code which events are recorded, and whether an event is made at all.

It sees what is written as `self.record(Deposited(...))`; what a helper or a variable stands for, it does not know, and
keeps silent about.
"""

from __future__ import annotations

import ast
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dis import Instruction, get_instructions
from functools import cached_property, partial
from inspect import getclosurevars, getsource, isfunction, unwrap
from itertools import chain
from types import CodeType, FunctionType, ModuleType
from typing import Any

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.decider import Decider
from cqrs_fastapi.messages.events import AnyEvent, definition_of

Events = set[type[AnyEvent]]


def recorded_by(aggregate: type[Aggregate]) -> dict[type[AnyEvent], str]:
    """The events that methods of the aggregate record of themselves, with the name of one that does."""
    found: dict[type[AnyEvent], str] = {}
    for parent in aggregate.__mro__[: aggregate.__mro__.index(Aggregate)]:
        for name, value in vars(parent).items():
            if isinstance(value, staticmethod):
                continue  # its first argument is something else
            for function in _functions_in(value):
                found |= dict.fromkeys(_recorded(function, partial(_is_self, function.__code__)), name)
    return found


def recorded_through_variables(handler: object) -> Events:
    """The events that a handler records in something that it has loaded or made itself: `account.record(...)`."""
    functions = chain.from_iterable(
        map(_functions_in, vars(handler).values() if isinstance(handler, type) else [handler])
    )
    return {event for function in functions for event in _recorded(function, _is_variable)}


def nowhere_made(events: Events) -> Events:
    """Those that no function of any loaded module mentions, apart from a decider's `evolve`, and that no module makes
    outside of functions. What cannot be looked for is not among them: an event that is no name of its module, or whose
    module has no source, since a session at a prompt is never complete.
    """
    left = {event for event in events if _is_global(event)}
    packages = {_package(event.__module__) for event in left}
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    for module in sorted(modules, key=lambda module: _package(module.__name__) not in packages):
        if not left:
            break
        left -= _made_in(module, left)
    left = {event for event in left if _source_of(sys.modules[event.__module__])}
    for module in modules if left else ():
        left -= _made_outside_of_functions(module, left)
    return left


def _recorded(function: FunctionType, is_receiver: Callable[[CodeType, str], bool]) -> Iterator[type[AnyEvent]]:
    names = _namespace(function)
    for code in _codes_in(function.__code__):
        if "record" not in code.co_names:
            continue
        steps = [one for one in get_instructions(code) if one.opname not in ("PUSH_NULL", "CACHE")]
        for before, step, *after in zip(steps, steps[1:], steps[2:], steps[3:], strict=False):
            if step.argval == "record" and _loads(before) and is_receiver(code, _last(before)):
                event = _value_of(after, names)
                if _is_event(event):
                    yield event


def _is_self(method: CodeType, _: CodeType, receiver: str) -> bool:
    return receiver in method.co_varnames[:1]


def _is_variable(code: CodeType, receiver: str) -> bool:
    """Not a parameter: a double of the user's may well have a `record` that takes events."""
    parameters = code.co_argcount + code.co_posonlyargcount + code.co_kwonlyargcount
    return receiver in code.co_varnames[parameters:] or receiver in code.co_cellvars


def _namespace(function: FunctionType) -> Mapping[str, Any]:
    """What names mean in a function."""
    try:
        return ChainMap(function.__globals__, dict(getclosurevars(function).nonlocals))
    except ValueError:  # a name of an enclosing function that has no value yet
        return function.__globals__


def _value_of(steps: Iterable[Instruction], names: Mapping[str, Any]) -> Any:
    """Of `Deposited`, or of `events.Deposited`."""
    first, second = steps
    if first.opname not in ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME", "LOAD_CLASSDEREF"):
        return None
    value = names.get(first.argval)
    return getattr(value, str(second.argval), None) if isinstance(value, ModuleType) else value


def _made_in(module: ModuleType, events: Events) -> Events:
    names = _names_in(module, events)
    if not names:
        return set()
    held = {event for value in vars(module).values() for event in _held_in(value) if event in events}
    codes = (code for value in list(vars(module).values()) for code in _codes_of(value, module.__name__))
    return held | {names[name] for code in codes for name in code.co_names if name in names}


def _made_outside_of_functions(module: ModuleType, events: Events) -> Events:
    """What a module did while it was imported is not kept, so its source is read: rarely, as the last resort."""
    names = _names_in(module, events)
    tree = ast.parse(_source_of(module) if names else "")
    called = [one.func for one in ast.walk(tree) if isinstance(one, ast.Call)]
    found = {one.id if isinstance(one, ast.Name) else getattr(one, "attr", "") for one in called}
    return {event for name, event in names.items() if name in found}


def _source_of(module: ModuleType) -> str:
    try:
        return getsource(module)
    except (OSError, TypeError):
        return ""


def _names_in(module: ModuleType, events: Events) -> dict[str, type[AnyEvent]]:
    """What the events are called in this module, if it can reach them."""
    by_identity = {id(event): event for event in events}
    values = list(vars(module).items())
    names = {name: by_identity[id(value)] for name, value in values if id(value) in by_identity}
    near = _package(module.__name__)
    modules = [value for _, value in values if isinstance(value, ModuleType)]
    for event in events:
        if _package(event.__module__) == near or any(vars(one).get(event.__name__) is event for one in modules):
            names.setdefault(event.__name__, event)
    return names


def _held_in(value: Any) -> Iterator[Any]:
    """Events in a table of the module's, from which some function may take them."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return (member for member in list(members) if isinstance(member, type))


def _codes_of(value: Any, module: str) -> Iterator[CodeType]:
    if isinstance(value, type):
        if value.__module__ == module:
            skipped = "evolve" if issubclass(value, Decider) else None
            members = [member for name, member in list(vars(value).items()) if name != skipped]
            yield from chain.from_iterable(_codes_of(member, module) for member in members)
        return
    for function in _functions_in(value):
        if function.__module__ == module:
            yield from _codes_in(function.__code__)


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """The functions that are behind an attribute of a class or of a module."""
    if isinstance(value, property):
        parts: tuple[Any, ...] = (value.fget, value.fset, value.fdel)
    elif isinstance(value, staticmethod | classmethod):
        parts = (value.__func__,)
    else:
        parts = (value.func if isinstance(value, partial | cached_property) else value,)
    for part in parts:
        if isfunction(part):
            yield part
            if (inner := unwrap(part)) is not part and isfunction(inner):
                yield inner


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    """With the functions, lambdas and comprehensions inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_in(constant)


def _loads(step: Instruction) -> bool:
    return step.opname.startswith(("LOAD_FAST", "LOAD_DEREF"))


def _last(step: Instruction) -> str:
    """The name that it loads last; some instructions load two."""
    return str(step.argval[-1] if isinstance(step.argval, tuple) else step.argval)


def _is_event(value: Any) -> bool:
    if not isinstance(value, type):
        return False
    try:
        definition_of(value)
    except TypeError:
        return False
    return True


def _is_global(event: type) -> bool:
    module = sys.modules.get(event.__module__)
    return module is not None and vars(module).get(event.__name__) is event


def _package(module: str) -> str:
    return module.partition(".")[0]
