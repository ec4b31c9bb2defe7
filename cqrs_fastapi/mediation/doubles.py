"""Bindings that contradict one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from cqrs_fastapi.mediation.event_map import DEFAULT_POLICY, EventBinding
from cqrs_fastapi.mediation.request_map import RequestBinding
from cqrs_fastapi.mediation.signatures import name_of


def requests_bound_twice(bindings: Sequence[RequestBinding]) -> Iterator[str]:
    """A request has one handler."""
    for request_type, times in Counter(binding.request_type for binding in bindings).items():
        if times > 1:
            handlers = [name_of(h) for b in bindings if b.request_type is request_type for h in b.handlers]
            yield (
                f"{request_type.__name__} is bound {times} times ({', '.join(handlers)}); a request has one handler: "
                f"remove the others, or bind a list for a chain of responsibility"
            )


def events_bound_in_contradiction(bindings: Sequence[EventBinding]) -> Iterator[str]:
    """A name stands for one reader: what its bindings say of it must go together."""
    yield from _consumers_named_twice(bindings)
    yield from _starts_that_contradict(bindings)
    yield from _unknowns_that_contradict(bindings)
    yield from _policies_that_contradict(bindings)
    yield from _groups_that_contradict(bindings)


def _consumers_named_twice(bindings: Sequence[EventBinding]) -> Iterator[str]:
    """The inbox tells the durable handlers of an event apart by their names."""
    counted = Counter((b.consumer, b.event_type) for b in bindings if b.when == "durable")
    for (consumer, event_type), times in counted.items():
        if times > 1:
            yield (
                f"{times} durable handlers of {event_type.__name__} are called {consumer!r}; the name is how the inbox "
                f"tells them apart: give one of them name='...'"
            )


def _starts_that_contradict(bindings: Sequence[EventBinding]) -> Iterator[str]:
    """One reader stands behind all bindings of a name, and it begins at one place."""
    for binding in bindings:
        if binding.from_start and binding.when == "in_transaction":
            yield (
                f"{name_of(binding.handler)} reacts in the transaction of {binding.event_type.__name__} and has no "
                f"history to begin with; leave from_start out, or bind it when='durable'"
            )
    durable = [binding for binding in bindings if binding.when == "durable"]
    late = {binding.consumer for binding in durable if not binding.from_start}
    for consumer in sorted({binding.consumer for binding in durable if binding.from_start} & late):
        yield (
            f"some bindings of {consumer!r} begin at the start and some at the present; write from_start=True for all "
            f"or for none, or give them names of their own"
        )


def _unknowns_that_contradict(bindings: Sequence[EventBinding]) -> Iterator[str]:
    """One reader stands behind all bindings of a name, and it does one thing with what it does not know."""
    for binding in bindings:
        if binding.unknown == "skip" and binding.when == "in_transaction":
            yield (
                f"{name_of(binding.handler)} reacts in the transaction of {binding.event_type.__name__} and reads "
                f"nothing that is stored; leave unknown out, or bind it when='durable'"
            )
    durable = [binding for binding in bindings if binding.when == "durable"]
    holding = {binding.consumer for binding in durable if binding.unknown == "hold"}
    for consumer in sorted({binding.consumer for binding in durable if binding.unknown == "skip"} & holding):
        yield (
            f"some bindings of {consumer!r} hold what is unknown and some skip it; write unknown='skip' for all or for "
            f"none, or give them names of their own"
        )


def _policies_that_contradict(bindings: Sequence[EventBinding]) -> Iterator[str]:
    """A key is closed for all of what a name stands for, so there is one rule for all of it."""
    for binding in bindings:
        options = (binding.on_failure != DEFAULT_POLICY, binding.where is not None, binding.validate is not None)
        if any(options) and binding.when == "in_transaction":
            yield (
                f"{name_of(binding.handler)} reacts in the transaction of {binding.event_type.__name__}, which its "
                f"error rolls back; leave on_failure, where and validate out, or bind it when='durable'"
            )
    first: dict[str, EventBinding] = {}
    for binding in bindings:
        known = first.setdefault(binding.consumer, binding) if binding.when == "durable" else binding
        if known.on_failure != binding.on_failure:
            yield (
                f"the bindings of {binding.consumer!r} say two things of what becomes of a failure; give all of them "
                f"the same on_failure, or names of their own"
            )


def _groups_that_contradict(bindings: Sequence[EventBinding]) -> Iterator[str]:
    """Only what is received has a group, and what each process gets has no history."""
    for binding in bindings:
        who, event = name_of(binding.handler), binding.event_type.__name__
        if binding.when == "in_transaction" and (binding.group, binding.effects) != ("service", "any"):
            yield f"{who} reacts in the transaction of {event}; leave group and effects out, or bind it when='durable'"
        elif binding.group == "each process" and binding.from_start:
            yield f"{who} gets {event} in each process, from its start on; leave from_start out"
