"""Plans how the parameters of a handler are made, and writes the plan as Python source.

The order of search for a type is that of DESIGN: overrides, the built-ins of the scope, then the container's providers:
exact, then one nominal subclass, else a problem that is told at start-up. The generated code looks nothing up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from fastapi.params import Depends

from cqrs_fastapi.mediation.answers import show
from cqrs_fastapi.mediation.captives import refuse_captives
from cqrs_fastapi.mediation.handlers import NextHandler
from cqrs_fastapi.mediation.providers import (
    AnyProvider,
    Provided,
    arguments_of,
    attributes_of,
    is_generator,
    is_provider,
    lifetime_of,
    resolved,
    target_of,
)
from cqrs_fastapi.mediation.signatures import (
    Parameter,
    SignatureProblem,
    is_coroutine_function,
    name_of,
    read_signature,
)


@dataclass(frozen=True, slots=True)
class Builtin:
    """A type that the scope itself gives. `make` takes the scope and the arguments of a generic type."""

    make: Callable[..., Any]
    opens_unit: bool = True
    """Whether asking for it means that the handler needs a unit of work."""
    replaceable: bool = False
    """Whether a provider of the container takes its place."""


@dataclass(slots=True)
class Injector:
    """Everything by which types are resolved, and the problems found while planning."""

    builtins: Mapping[Any, Builtin]
    provided: list[Provided]
    overrides: Mapping[Any, Any]
    problems: list[str] = field(default_factory=list)
    namespace: dict[str, Any] = field(default_factory=dict)
    application: dict[str, AnyProvider] = field(default_factory=dict)
    """Names in the namespace whose values are known only when the container has been started."""
    requested: list[tuple[Any, ...]] = field(default_factory=list)
    """The generic built-ins that handlers ask for, as (origin, *arguments): `Repository[Account]`."""
    _numbers: int = 0

    def name(self, value: object, hint: str = "v") -> str:
        """A name in the generated code for this very object."""
        self._numbers += 1
        name = f"{hint}_{self._numbers}"
        self.namespace[name] = value
        return name

    def application_value(self, provider: AnyProvider) -> str:
        """A name for the one value a provider has for as long as the application runs."""
        for name, known in self.application.items():
            if known is provider:
                return name
        name = self.name(None, "app")
        self.application[name] = provider
        return name

    def problem(self, sentence: str) -> str:
        if sentence not in self.problems:
            self.problems.append(sentence)
        return "None"

    def builtin_for(self, wanted: Any) -> tuple[Builtin, tuple[Any, ...]] | None:
        if wanted in self.builtins:
            return self.builtins[wanted], ()
        origin = get_origin(wanted)
        if origin is not None and origin in self.builtins:
            self.requested.append((origin, *get_args(wanted)))
            return self.builtins[origin], get_args(wanted)
        return None

    def provider_for(self, wanted: Any, where: str) -> Provided | None:
        """The one provider of a type; a problem is noted if there are several candidates."""
        candidates = [provided for provided in self.provided if provided.type == wanted]
        if not candidates and isinstance(wanted, type):
            candidates = [p for p in self.provided if isinstance(p.type, type) and wanted in p.type.__mro__]
        if len(candidates) > 1:
            names = " and ".join(provided.attribute for provided in candidates)
            self.problem(
                f"{where} asks for {show(wanted)}, and the container offers it by {names}; annotate the one that is "
                f"meant with Provides[{show(wanted)}], or ask for its own class"
            )
        return candidates[0] if candidates else None


class Plan:
    """The source of one handler's call: `lines` before it, and whether it needs a scope."""

    def __init__(self, injector: Injector, special: Mapping[Any, str]) -> None:
        self._injector = injector
        self._special = special
        self._made: dict[int, str] = {}
        self.lines: list[str] = []
        self.scoped = False

    def arguments(self, target: Callable[..., Any], *, skip: int, where: str) -> str:
        """The arguments of a call, from the `skip`-th parameter on."""
        try:
            parameters = read_signature(target).parameters[skip:]
        except SignatureProblem as problem:
            self._injector.problem(str(problem))
            return ""
        given = ((parameter, self._argument(parameter, where)) for parameter in parameters)
        return ", ".join(f"{p.name}={expression}" if p.keyword_only else expression for p, expression in given)

    def _argument(self, parameter: Parameter, where: str) -> str:
        place = f"{where}, parameter {parameter.name!r},"
        if isinstance(parameter.default, Depends):
            return self._injector.problem(
                f"{place} has a bare Depends default, which only routes understand; write "
                f"{parameter.name}: Annotated[YourType, Depends(...)]"
            )
        if parameter.annotation is inspect.Parameter.empty:
            if parameter.has_default:
                return self._injector.name(parameter.default, "default")
            return self._injector.problem(f"{place} has no annotation; parameters are injected by type")
        return self.value(parameter.annotation, place, parameter)

    def value(self, wanted: Any, place: str, parameter: Parameter | None = None) -> str:  # noqa: PLR0911  # one line for each place of search
        """The expression that gives a value of this type."""
        depends = _depends_in(wanted)
        if depends is not None:
            return self._depends(depends, place)
        if get_origin(wanted) is Annotated:
            wanted = get_args(wanted)[0]
        if wanted in self._injector.overrides:
            return self._injector.name(self._injector.overrides[wanted], "override")
        if wanted in self._special:
            return self._special[wanted]
        builtin = self._injector.builtin_for(wanted)
        if builtin is not None and not builtin[0].replaceable:
            return self._builtin(*builtin)
        provided = self._injector.provider_for(wanted, place)
        if provided is not None:
            return self.provider(provided.provider, place)
        if builtin is not None:
            return self._builtin(*builtin)
        if parameter is not None and parameter.has_default:
            return self._injector.name(parameter.default, "default")
        return self._injector.problem(f"{place} asks for {show(wanted)}{_advice(wanted)}")

    def provider(self, provider: AnyProvider, place: str) -> str:
        """The expression that gives a value of this provider, as long-lived as its kind says."""
        provider = resolved(provider)
        lifetime = lifetime_of(provider)
        if lifetime == "application":
            refuse_captives(self._injector, provider, place)
            return self._injector.application_value(provider)
        if lifetime == "scope":
            return self._opened(provider, place)
        return self._made_for_this_call(provider, place)

    def _builtin(self, builtin: Builtin, arguments: tuple[Any, ...]) -> str:
        self.scoped = self.scoped or builtin.opens_unit
        given = "".join(f", {self._injector.name(argument, 'type')}" for argument in arguments)
        return f"{self._injector.name(builtin.make, 'make')}(scope{given})"

    def _made_for_this_call(self, provider: AnyProvider, place: str) -> str:
        target = target_of(provider)
        if target is None:
            return f"{self._injector.name(provider, 'composed')}()"
        call = f"{self._injector.name(target, 'new')}({self._provider_arguments(provider, target, place)})"
        if is_coroutine_function(target):
            call = f"(await {call})"
        attributes = attributes_of(provider)
        if not attributes:
            return call
        name = f"o{len(self.lines)}"
        self.lines.append(f"{name} = {call}")
        self.lines += [f"{name}.{key} = {self._given(value, place)}" for key, value in attributes.items()]
        return name

    def _opened(self, provider: AnyProvider, place: str) -> str:
        """A generator's value, entered once in this scope and closed with it."""
        self.scoped = True
        if id(provider) in self._made:
            return self._made[id(provider)]
        target = target_of(provider)
        if target is None:
            return self._injector.problem(f"{place} needs a provider without a target")
        arguments = self._provider_arguments(provider, target, place)
        self._made[id(provider)] = name = self._open(provider, target, arguments)
        return name

    def _open(self, key: object, target: Callable[..., Any], arguments: str) -> str:
        """Enter a generator. Its arguments are made in a function, which is not called when the scope has its value."""
        name = f"g{len(self.lines)}"
        self.lines += [
            f"async def start_{name}(): return {self._injector.name(target, 'gen')}({arguments})",
            f"{name} = await scope.enter({self._injector.name(key, 'key')}, start_{name})",
        ]
        return name

    def _depends(self, depends: Depends, place: str) -> str:
        """`Annotated[T, Depends(f)]`: `f` is called once for a handler, with parameters resolved like a handler's."""
        target = self._injector.overrides.get(depends.dependency, depends.dependency)
        if target is None:
            return self._injector.problem(f"{place} has Depends() without a function; write Depends(your_function)")
        if depends.use_cache and id(target) in self._made:
            return self._made[id(target)]
        arguments = self.arguments(target, skip=0, where=f"{place} by {name_of(target)}")
        if is_generator(target):
            self.scoped = True
            name = self._open(target, target, arguments)
        else:
            name, wait = f"d{len(self.lines)}", "await " if is_coroutine_function(target) else ""
            self.lines.append(f"{name} = {wait}{self._injector.name(target, 'dep')}({arguments})")
        self._made[id(target)] = name
        return name

    def _provider_arguments(self, provider: AnyProvider, target: Callable[..., Any], place: str) -> str:
        """What the container gives, then what it leaves open, by type."""
        args, kwargs = arguments_of(provider)
        where = f"{place} by {name_of(target)}"
        parts = [self._given(value, where) for value in args]
        given = {key: self._given(value, where) for key, value in kwargs.items()}
        try:
            parameters = read_signature(target).parameters[len(args) :]
        except SignatureProblem as problem:
            self._injector.problem(str(problem))
            return ""
        by_place = (
            True  # arguments by place cost a third of those by name, so they are, up to the first that is left out
        )
        for parameter in parameters:
            if parameter.name not in given and parameter.has_default:
                by_place = False
                continue
            expression = given.pop(parameter.name, None) or self._argument(parameter, where)
            by_place = by_place and not parameter.keyword_only
            parts.append(expression if by_place else f"{parameter.name}={expression}")
        return ", ".join([*parts, *(f"{key}={expression}" for key, expression in given.items())])

    def _given(self, value: Any, place: str) -> str:
        if not is_provider(value):
            return self._injector.name(value, "given")
        for provided in self._injector.provided:
            if provided.provider is resolved(value) and provided.type in self._injector.overrides:
                return self._injector.name(self._injector.overrides[provided.type], "override")
        return self.provider(value, place)


def _advice(wanted: Any) -> str:
    if get_origin(wanted) is get_origin(NextHandler):
        return (
            "; only a handler in a list that is not its last gets the next one, by NextHandler[TheRequest, ItsResult]"
        )
    return (
        f", which nothing provides; add a provider to the container: "
        f"{_attribute(wanted)}: Provides[{show(wanted)}] = providers.Factory(...)"
    )


def _depends_in(annotation: Any) -> Depends | None:
    if get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, Depends)), None)


def _attribute(wanted: Any) -> str:
    name = getattr(wanted, "__name__", "it")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_")
