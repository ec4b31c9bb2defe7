"""What lives as long as the application must not hold what ends with a message: the captive dependency."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cqrs_fastapi.mediation.answers import show
from cqrs_fastapi.mediation.providers import AnyProvider, arguments_of, lifetime_of, target_of, walk
from cqrs_fastapi.mediation.signatures import SignatureProblem, name_of, read_signature

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.injection import Injector


def refuse_captives(injector: Injector, provider: AnyProvider, place: str) -> None:
    """Note a problem for everything that this provider, which lives as long as the application, cannot be given."""
    for inner in walk(provider):
        if inner is not provider and lifetime_of(inner) == "scope":
            injector.problem(_captive(provider, name_of(target_of(inner)), place))
        elif (target := target_of(inner)) is not None:
            _refuse_open_parameters(injector, inner, target, place)


def _refuse_open_parameters(injector: Injector, provider: AnyProvider, target: Callable[..., Any], place: str) -> None:
    args, kwargs = arguments_of(provider)
    try:
        parameters = read_signature(target).parameters[len(args) :]
    except SignatureProblem:
        return  # a target without a readable signature is the container's own business
    for parameter in parameters:
        if parameter.name in kwargs or parameter.has_default:
            continue
        if injector.builtin_for(parameter.annotation) is not None:
            injector.problem(_captive(provider, show(parameter.annotation), place))
        else:
            injector.problem(
                f"{place} gets {name_of(target)}, which lives as long as the application and whose argument "
                f"{parameter.name!r} is not given; give it in the container"
            )


def _captive(provider: AnyProvider, inner: str, place: str) -> str:
    return (
        f"{place} gets {name_of(target_of(provider))}, which lives as long as the application but needs {inner}, which "
        f"ends with each message; make it a Factory"
    )
