"""Puts the parts together: maps and container in, checked and compiled pipelines out."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.refs import give_resolver
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.domain.root_repository import RootRepository
from cqrs_fastapi.errors import ConfigurationError, RegistrationError
from cqrs_fastapi.mediation.behaviors import Behavior
from cqrs_fastapi.mediation.compiler import Compiler
from cqrs_fastapi.mediation.event_map import EventBinding, EventMap
from cqrs_fastapi.mediation.injection import Injector
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.mediation.providers import AnyProvider
from cqrs_fastapi.mediation.request_map import RequestBinding, RequestMap
from cqrs_fastapi.messages.chains import Chains
from cqrs_fastapi.messages.envelopes.chosen import Envelopes, chosen
from cqrs_fastapi.messages.envelopes.codecs import Codec
from cqrs_fastapi.messages.envelopes.envelope import Envelope
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.forms import kind_of
from cqrs_fastapi.messages.registry import EventRegistry, clash
from cqrs_fastapi.messages.upcasters import UpcasterMap
from cqrs_fastapi.outbox.routing import Route, RoutingFunction
from cqrs_fastapi.projections.projection import ProjectionMap
from cqrs_fastapi.remote.router import BrokerRouter, problems_of
from cqrs_fastapi.runtime.folds import fold_problems
from cqrs_fastapi.scheduling.job import Job
from cqrs_fastapi.scheduling.tick import Tick


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Everything the user has bound."""

    requests: RequestMap
    events: EventMap
    projections: ProjectionMap
    jobs: Sequence[Job]
    registered: Sequence[type]
    behaviors: tuple[Behavior, ...]
    job_problems: Sequence[str] = ()
    upcasters: UpcasterMap = field(default_factory=UpcasterMap)
    route: RoutingFunction = Route.of
    envelopes: Mapping[str, Envelope] = field(default_factory=dict)
    codecs: Mapping[type[AnyEvent], Codec] = field(default_factory=dict)
    brokers: BrokerRouter = field(default_factory=BrokerRouter)

    def request_bindings(self) -> list[RequestBinding]:
        return [*self.requests.bindings(), *self.brokers.request_bindings()]

    def requests_needed(self) -> list[type]:
        """Those that somebody counts on having a handler, each once."""
        by_topic = [binding.request_type for binding in self.brokers.bindings()]
        return [cls for cls in dict.fromkeys((*self.registered, *by_topic)) if kind_of(cls) is not None]

    def event_bindings(self) -> list[EventBinding]:
        return [*self.events.bindings(), *self.projections.bindings()]


@dataclass(frozen=True, slots=True)
class Assembled:
    """A compilation that had no problems. `jobs` are the compiled handlers by the name of their job."""

    compiler: Compiler
    registry: EventRegistry
    durable: frozenset[type]
    jobs: dict[str, Handling]
    envelopes: Envelopes


def assemble(blueprint: Blueprint, injector: Injector) -> Assembled:
    """Check and compile everything. Raises one RegistrationError that numbers all that is wrong."""
    compiler = Compiler(injector, blueprint.behaviors)
    problems = injector.problems
    problems.extend(blueprint.job_problems)
    problems.extend(blueprint.projections.problems())
    compiler.compile_requests(blueprint.request_bindings(), blueprint.requests_needed())
    compiler.compile_events(blueprint.event_bindings())
    jobs = {job.name: compiler.compile_job(job.handler, Tick, job.behaviors) for job in blueprint.jobs}
    resolver = compiler.compile_job(give_resolver, object, ())  # it is a function with injected parameters like any
    if resolver is not None:
        (compiler.pipelines.resolver,) = resolver.bodies
    event_types = _event_types(blueprint, injector, problems)
    problems.extend(_clashes(event_types))
    problems.extend(problems_of(blueprint.brokers.bindings(), event_types))
    upcasters = blueprint.upcasters.upcasters()
    problems.extend(fold_problems(_aggregates(blueprint, injector), _handlers(blueprint), upcasters))
    problems.extend(blueprint.upcasters.problems())
    problems.extend(Chains([definition_of(one) for one in event_types], upcasters).problems)
    topics = (topic for one in event_types if (topic := definition_of(one).topic) is not None)
    envelopes, envelope_problems = chosen(blueprint.envelopes, blueprint.codecs, topics)
    problems.extend(envelope_problems)
    if problems:
        raise RegistrationError(problems)
    durable = frozenset(compiler.pipelines.durable)
    compiled_jobs = {name: handling for name, handling in jobs.items() if handling is not None}
    return Assembled(compiler, EventRegistry(event_types, upcasters), durable, compiled_jobs, envelopes)


async def start_application_values(injector: Injector) -> None:
    """Give the generated code the values that live as long as the application; starts resources on the way."""
    for name, provider in injector.application.items():
        value = provider()
        injector.namespace[name] = await value if inspect.isawaitable(value) else value


def application_value_now(provider: AnyProvider) -> object:
    """The value of a provider that an override stood in for until now. One that must be awaited has to be there."""
    value = provider()
    if not inspect.isawaitable(value):
        return value
    if isinstance(value, asyncio.Future) and value.done():
        return value.result()
    if inspect.iscoroutine(value):
        value.close()
    raise ConfigurationError(
        f"{provider!r} is made asynchronously, and was not made at the start since an override stood in for it; "
        "end the override after the application has closed"
    )


def _event_types(blueprint: Blueprint, injector: Injector, problems: list[str]) -> list[type[AnyEvent]]:
    """Events that are handled, folded by an aggregate somebody loads, or registered by hand; each once."""
    found: dict[type[AnyEvent], None] = {binding.event_type: None for binding in blueprint.event_bindings()}
    for origin, *arguments in injector.requested:
        if origin in (Repository, RootRepository):
            found.update(dict.fromkeys(_folded_by(origin, arguments[0], problems)))
    for cls in blueprint.registered:
        if issubclass(cls, Aggregate):
            found.update(dict.fromkeys(cls.__folds__))
        elif kind_of(cls) is None:
            found[cast("type[AnyEvent]", cls)] = None
    return [event_type for event_type in found if _is_event(event_type, problems)]


def _aggregates(blueprint: Blueprint, injector: Injector) -> list[type[Aggregate]]:
    """Those that somebody loads, or that are registered by hand; each once."""
    loaded = [arguments[0] for origin, *arguments in injector.requested if origin in (Repository, RootRepository)]
    known = dict.fromkeys((*loaded, *blueprint.registered))
    return [one for one in known if isinstance(one, type) and issubclass(one, Aggregate)]


def _handlers(blueprint: Blueprint) -> Iterator[object]:
    """All that handle something, once for each binding."""
    for binding in blueprint.request_bindings():
        yield from binding.handlers
    for event_binding in blueprint.event_bindings():
        yield event_binding.handler
    for job in blueprint.jobs:
        yield job.handler


def _folded_by(repository: type, aggregate: Any, problems: list[str]) -> Iterable[type[AnyEvent]]:
    base = Aggregate if repository is Repository else RootEntity
    if isinstance(aggregate, type) and issubclass(aggregate, base):
        if base is RootEntity or not issubclass(aggregate, RootEntity):
            return aggregate.__folds__
        problems.append(f"Repository[{aggregate.__name__}] is asked for; write RootRepository[{aggregate.__name__}]")
        return ()
    wanted = f"{repository.__name__}[{aggregate!r}]"
    problems.append(f"{wanted} is asked for, and that is no {base.__name__}; inherit from {base.__name__}")
    return ()


def _is_event(event_type: type, problems: list[str]) -> bool:
    try:
        definition_of(event_type)
    except TypeError as error:
        if str(error) not in "\n".join(problems):
            problems.append(str(error))
        return False
    return True


def _clashes(event_types: Sequence[type[AnyEvent]]) -> list[str]:
    seen: dict[tuple[str, int], type[AnyEvent]] = {}
    problems: list[str] = []
    for event_type in event_types:
        definition = definition_of(event_type)
        first = seen.setdefault((definition.name, definition.version), event_type)
        if first is not event_type:
            problems.append(clash(first, event_type))
    return problems
