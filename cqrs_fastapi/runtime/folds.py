"""What is wrong between what aggregates record and what they fold, told when the application starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, get_origin

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.recording import nowhere_made, recorded_by, recorded_through_variables
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.mediation.signatures import SignatureProblem, name_of, read_signature
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.upcasters import Key, Upcaster


def fold_problems(
    aggregates: Sequence[type[Aggregate]], handlers: Iterable[object], upcasters: Iterable[Upcaster]
) -> list[str]:
    """Events that are recorded and not folded, and events that are folded and neither recorded by anybody nor made by
    an upcaster of what is stored.

    Of `handlers`, those that ask for repositories are read. All this waits for the start: the folds of a class may yet
    come with a subclass, and what records an event may be made after the class.
    """
    loading = [handler for handler in handlers if _loads_aggregates(handler)]
    folded = {event for aggregate in aggregates for event in aggregate.__folds__}
    problems = [problem for aggregate in aggregates for problem in _missing(aggregate)]
    problems += [
        f"{name_of(handler)} records {event.__name__}, which no aggregate here has a fold for; write in the aggregate: "
        f"{_fold(event)}"
        for handler in loading
        for event in recorded_through_variables(handler) - folded
    ]
    return [*problems, *_superfluous(aggregates, {target for one in upcasters for target in one.targets})]


def _loads_aggregates(handler: Any) -> bool:
    try:
        parameters = read_signature(handler).parameters
    except SignatureProblem:
        return False  # which is told where the handler is compiled
    return any(get_origin(parameter.annotation) is Repository for parameter in parameters)


def _missing(aggregate: type[Aggregate]) -> Iterator[str]:
    name, recorded = aggregate.__name__, recorded_by(aggregate)
    for event, method in recorded.items():
        if event not in aggregate.__folds__:
            yield f"{name}.{method} records {event.__name__} and {name} has no fold for it; write: {_fold(event)}"
    for event in aggregate.__stored__:
        if event not in aggregate.__folds__:
            yield (
                f"{name} names {event.__name__} in stored=... and has no fold for it, so that such streams cannot be "
                f"loaded; write: {_fold(event)}"
            )


def _superfluous(aggregates: Sequence[type[Aggregate]], upcast: Collection[Key]) -> Iterator[str]:
    """Of an aggregate of which something is recorded here: one that is only loaded has its events from elsewhere."""
    unmade = nowhere_made({event for aggregate in aggregates for event in aggregate.__folds__})
    for aggregate in aggregates:
        folds = aggregate.__folds__
        if unmade.issuperset(folds):
            continue
        for event in folds:
            definition = definition_of(event)
            is_stored = event in aggregate.__stored__ or (definition.name, definition.version) in upcast
            if event in unmade and not is_stored:
                name, method = aggregate.__name__, folds[event].lstrip("_")
                yield (
                    f"{name}.{method} applies {event.__name__}, which nobody records; take the fold out, or, if such "
                    f"events are stored, write: class {name}(..., stored=({event.__name__},))"
                )


def _fold(event: type) -> str:
    return f"@applies def on_{event.__name__.lower()}(self, event: {event.__name__})"
