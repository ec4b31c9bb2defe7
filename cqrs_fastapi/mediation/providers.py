"""The one place that reads a `dependency-injector` container: which provider gives which type, and for how long."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from dependency_injector import containers, providers

from cqrs_fastapi.errors import RegistrationError
from cqrs_fastapi.mediation.signatures import SignatureProblem, read_signature, unwrapped_result

T_co = TypeVar("T_co", covariant=True)

_MAKERS = (providers.Factory, providers.Callable, providers.BaseSingleton, providers.Resource)
_COMPOSED = (
    providers.Selector,
    providers.List,
    providers.Dict,
    providers.ProvidedInstance,
    providers.AttributeGetter,
    providers.ItemGetter,
    providers.MethodCaller,
)
"""What the container itself puts together of other providers, anew at each use."""

Lifetime: TypeAlias = Literal["application", "scope", "call"]
AnyProvider: TypeAlias = "providers.Provider[Any]"
AnyContainer: TypeAlias = containers.Container | containers.DynamicContainer


class Provides(Protocol[T_co]):
    """`gateway: Provides[PaymentGateway] = providers.Singleton(CardGateway)` says which type a provider stands for."""

    def __call__(self, *args: Any, **kwargs: Any) -> T_co: ...


@dataclass(frozen=True, slots=True)
class Provided:
    """A provider of the container. `target` is what makes the value; `type` is what it is asked for by."""

    attribute: str
    type: Any
    provider: AnyProvider
    target: Callable[..., Any] | None
    lifetime: Lifetime


def index(container: AnyContainer) -> list[Provided]:
    """All providers of a container that say what they give."""
    declared = _declared_types(container)
    return [
        provided
        for attribute, provider in container.providers.items()
        if (provided := _provided(attribute, provider, declared.get(attribute))) is not None
    ]


def resolved(provider: AnyProvider) -> AnyProvider:
    """The provider that stands in for this one, if the container was told so: `container.gateway.override(...)`."""
    while (other := provider.last_overriding) is not None:
        provider = other
    return provider


def arguments_of(provider: AnyProvider) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the container itself gives to the provider's target."""
    if not isinstance(provider, (*_MAKERS, providers.List)):
        return (), {}
    return tuple(provider.args), dict(getattr(provider, "kwargs", {}))


def attributes_of(provider: AnyProvider) -> dict[str, Any]:
    """Attributes the container sets on what a Factory makes."""
    return dict(provider.attributes) if isinstance(provider, providers.Factory) else {}


def is_provider(value: object) -> bool:
    return isinstance(value, providers.Provider)


def is_resource(provider: AnyProvider) -> bool:
    return isinstance(provider, providers.Resource)


def is_generator(target: object) -> bool:
    return inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)


def walk(provider: AnyProvider) -> Iterator[AnyProvider]:
    """The provider and all that its arguments are made of."""
    provider = resolved(provider)
    yield provider
    args, kwargs = arguments_of(provider)
    for value in (*args, *kwargs.values()):
        if is_provider(value):
            yield from walk(value)


def lifetime_of(provider: AnyProvider) -> Lifetime:
    """Factories and callables make a value for each use; of a generator function, one for each scope."""
    if isinstance(provider, providers.Factory | providers.Callable):
        return "scope" if is_generator(target_of(provider)) else "call"
    return "call" if isinstance(provider, _COMPOSED) else "application"


def target_of(provider: AnyProvider) -> Callable[..., Any] | None:
    """The class or function that makes the value; None for options of a configuration, objects and the like."""
    # Options of a configuration answer to every attribute, so only those that are known to have a target are asked.
    return provider.provides if isinstance(provider, _MAKERS) else None


def _provided(attribute: str, provider: AnyProvider, declared: Any) -> Provided | None:
    if isinstance(provider, providers.Container | providers.DependenciesContainer | providers.Configuration):
        return None
    gives = declared if declared is not None else _given_type(provider, target_of(provider))
    stands = resolved(provider)
    return None if gives is None else Provided(attribute, gives, stands, target_of(stands), lifetime_of(stands))


def _given_type(provider: AnyProvider, target: Any) -> Any:
    if isinstance(provider, providers.Object):
        return type(provider())
    if isinstance(target, type):
        return target
    if target is None:
        return None
    try:
        return unwrapped_result(read_signature(target).returns)
    except SignatureProblem:
        return None


def _declared_types(container: AnyContainer) -> dict[str, Any]:
    """The `T` of each attribute annotated with `Provides[T]`."""
    cls = getattr(container, "declarative_parent", None) or type(container)
    found: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        if not inspect.get_annotations(parent):
            continue
        for attribute, hint in _hints_of(parent).items():
            if get_origin(hint) is Provides:
                found[attribute] = get_args(hint)[0]
    return found


def _hints_of(container: type) -> dict[str, Any]:
    try:
        return get_type_hints(container)
    except NameError as error:
        problem = (
            f"{container.__name__} has an annotation that cannot be read at run time ({error}): import the type "
            f"outside of `if TYPE_CHECKING:`, at module level"
        )
        raise RegistrationError([problem]) from None
