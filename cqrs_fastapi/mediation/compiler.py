"""Checks all bindings and generates one function for each handler, once, when the maps are frozen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cqrs_fastapi.mediation.answers import fits, result_of, show
from cqrs_fastapi.mediation.behaviors import Behavior, Next
from cqrs_fastapi.mediation.doubles import events_bound_in_contradiction, requests_bound_twice
from cqrs_fastapi.mediation.event_map import EventBinding
from cqrs_fastapi.mediation.fallback import CircuitBreaker
from cqrs_fastapi.mediation.frame import root_frame_of
from cqrs_fastapi.mediation.handlers import EventHandler, NextHandler, RequestHandler, StreamHandler
from cqrs_fastapi.mediation.injection import Injector, Plan
from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.mediation.pipelines import Body, Handling, Pipelines, Send
from cqrs_fastapi.mediation.request_map import RequestBinding
from cqrs_fastapi.mediation.signatures import Signature, SignatureProblem, name_of, read_signature, unwrapped_result
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.forms import Kind, kind_of
from cqrs_fastapi.messages.metadata import enter, leave
from cqrs_fastapi.messages.received_message import ReceivedMessage


@dataclass(slots=True)
class Compiler:
    """Turns bindings into pipelines; `problems` of the injector hold everything that is wrong with them."""

    injector: Injector
    behaviors: tuple[Behavior, ...] = ()
    pipelines: Pipelines = field(default_factory=Pipelines)
    sources: dict[Body, list[str]] = field(default_factory=dict)
    """The lines of each body, for those that are written right into the function that `send` calls."""

    def compile_requests(self, bindings: Sequence[RequestBinding], registered: Iterable[type]) -> None:
        """Requests and streams; `registered` are request types that somebody counts on having a handler."""
        for problem in requests_bound_twice(bindings):
            self._problem(problem)
        for binding in bindings:
            handling = self._request(binding)
            if handling is None:
                continue
            if handling.kind == "stream":
                self.pipelines.streams[binding.request_type] = handling
            else:
                self.pipelines.nested[binding.request_type] = handling
        bound = {binding.request_type for binding in bindings}
        for request_type in registered:
            if request_type not in bound:
                name = request_type.__name__
                self._problem(f"{name} has no handler; write requests.bind({name}, your_handler)")

    def compile_events(self, bindings: Sequence[EventBinding]) -> None:
        """Event handlers, grouped by the event's class in the order they were bound."""
        for problem in events_bound_in_contradiction(bindings):
            self._problem(problem)
        for binding in bindings:
            try:
                definition_of(binding.event_type)
            except TypeError as error:
                self._problem(f"{name_of(binding.handler)} is bound to something else than an event: {error}")
                continue
            body = self._body(binding.handler, binding.event_type, EventHandler, None, self._received(binding))
            if body is None:
                continue
            table = self.pipelines.table_of(binding)
            handling = Handling(
                binding.event_type,
                (body[0],),
                scoped=True,
                behaviors=(*self.behaviors, *binding.behaviors),
                consumer=binding.consumer,
                from_start=binding.from_start,
                unknown=binding.unknown,
                on_failure=binding.on_failure,
                where=binding.where,
                validate=binding.validate,
                effects=binding.effects,
            )
            table[binding.event_type] = (*table.get(binding.event_type, ()), handling)

    def _received(self, binding: EventBinding) -> dict[Any, str]:
        """Only what comes to a durable handler was received."""
        current = self.injector.name(ReceivedMessage.current, "received")
        return {ReceivedMessage: f"{current}()"} if binding.when == "durable" else {}

    def compile_job(self, handler: object, tick_type: type, behaviors: Sequence[Behavior]) -> Handling | None:
        """A periodic job: a function of its tick."""
        body = self._body(handler, tick_type, EventHandler, None, {})
        if body is None:
            return None
        return Handling(tick_type, (body[0],), scoped=True, behaviors=(*self.behaviors, *behaviors))

    def attach(self, kernel: Kernel) -> Pipelines:
        """Make the functions that `send` calls; from here on the pipelines can run."""
        self.pipelines.kernel = kernel
        for request_type, handling in self.pipelines.nested.items():
            self.pipelines.requests[request_type] = self._root(handling, kernel)
        return self.pipelines

    def _request(self, binding: RequestBinding) -> Handling | None:
        kind = kind_of(binding.request_type)
        if kind is None:
            self._problem(
                f"{binding.request_type.__name__} is neither a Command, a Query nor a StreamRequest; inherit from one, "
                f"or mark a dataclass that inherits Request[YourResult] with @command or @query"
            )
            return None
        bodies = self._bodies(binding, kind)
        if bodies is None:
            return None
        if binding.is_fallback and not binding.on:
            self._problem(f"the Fallback of {binding.request_type.__name__} never falls back; name errors in on=(...)")
        breaker = binding.breaker if isinstance(binding.breaker, CircuitBreaker) else None
        return Handling(
            binding.request_type,
            tuple(body for body, _ in bodies),
            any(scoped for _, scoped in bodies),
            (*self.behaviors, *binding.behaviors),
            kind,
            binding.on,
            breaker,
        )

    def _bodies(self, binding: RequestBinding, kind: Kind) -> list[tuple[Body, bool]] | None:
        """One body for a plain handler or a chain, two for a Fallback."""
        expected = StreamHandler if kind == "stream" else RequestHandler
        result = result_of(binding.request_type)
        if not binding.handlers:
            self._problem(f"{binding.request_type.__name__} is bound to an empty list; name at least one handler")
            return None
        if kind == "stream" and len(binding.handlers) > 1:
            self._problem(f"{binding.request_type.__name__} is a StreamRequest, which has one handler; bind it alone")
            return None
        if binding.is_fallback:
            both = [self._body(handler, binding.request_type, expected, result, {}) for handler in binding.handlers]
            return [body for body in both if body is not None] if all(both) else None
        rest: tuple[Body, bool] | None = None
        for handler in reversed(binding.handlers):
            special = {} if rest is None else self._next(binding.request_type, result, rest[0])
            body = self._body(handler, binding.request_type, expected, result, special)
            if body is None:
                return None
            rest = (body[0], body[1] or (rest is not None and rest[1]))
        return [rest] if rest is not None else None

    def _next(self, request_type: type, result: Any, rest: Body) -> dict[Any, str]:
        expression = f"{self.injector.name(partial, 'partial')}({self.injector.name(rest, 'rest')}, scope)"
        return dict.fromkeys(_next_types(request_type, result), expression)

    def _body(
        self, handler: object, message_type: type, base: type, result: Any, special: dict[Any, str]
    ) -> tuple[Body, bool] | None:
        """Generate `async def body(scope, message)` for one handler; None if something is wrong with it."""
        before = len(self.injector.problems)
        plan = Plan(self.injector, special)
        if isinstance(handler, type):
            call = self._class_call(handler, base, message_type, result, plan)
        else:
            call = self._function_call(handler, message_type, result, plan, streams=base is StreamHandler)
        if len(self.injector.problems) > before:
            return None
        if base is StreamHandler:
            # Left early, the handler's own generator must end with its scope and not when it is collected.
            closing = f"async with {self.injector.name(aclosing, 'aclosing')}({call}) as items:"
            last = [closing, "    async for item in items:", "        yield item"]
        else:
            last = [f"return await {call}"]
        lines = [*plan.lines, *last]
        name = f"handle_{message_type.__name__}"
        body = _function(name, ["scope", "message"], lines, self.injector.namespace)
        self.sources[body] = lines
        return body, plan.scoped or bool(special)

    def _class_call(self, handler: type, base: type, message_type: type, result: Any, plan: Plan) -> str:
        name = name_of(handler)
        if not issubclass(handler, base):
            self._problem(f"{name} is bound to {message_type.__name__} and is no {base.__name__}; inherit from it")
            return ""
        if inspect.isabstract(handler):
            self._problem(f"{name} has no `handle`; write: async def handle(self, request: {message_type.__name__})")
            return ""
        method = inspect.getattr_static(handler, "handle")
        if not self._is_awaited_rightly(method, name, message_type, streams=base is StreamHandler):
            return ""
        self._check_types(method, message_type, result, skip=1, streams=base is StreamHandler)
        arguments = plan.arguments(handler, skip=0, where=name) if handler.__init__ is not object.__init__ else ""
        return f"{self.injector.name(handler, 'new')}({arguments}).handle(message)"

    def _function_call(self, handler: Any, message_type: type, result: Any, plan: Plan, *, streams: bool) -> str:
        name = name_of(handler)
        if not callable(handler):
            self._problem(f"{handler!r} is bound to {message_type.__name__} and cannot be called; bind a function")
            return ""
        called = handler if inspect.isroutine(handler) else type(handler).__call__
        if not self._is_awaited_rightly(called, name, message_type, streams=streams):
            return ""
        self._check_types(handler, message_type, result, skip=0, streams=streams)
        arguments = plan.arguments(handler, skip=1, where=name)
        comma = ", " if arguments else ""
        return f"{self.injector.name(handler, 'handler')}(message{comma}{arguments})"

    def _is_awaited_rightly(self, function: Any, name: str, message_type: type, *, streams: bool) -> bool:
        if inspect.isasyncgenfunction(function) if streams else inspect.iscoroutinefunction(function):
            return True
        wanted = "an async generator" if streams else "an async function"
        self._problem(
            f"{name} handles {message_type.__name__} and must be {wanted}: write async def {function.__name__}(...)"
            + (" with yield" if streams else "")
        )
        return False

    def _check_types(self, target: Any, message_type: type, result: Any, *, skip: int, streams: bool) -> None:
        """What the annotations say must fit the message and what it answers."""
        try:
            signature = read_signature(target)
        except SignatureProblem as problem:
            self._problem(str(problem))
            return
        if len(signature.parameters) <= skip:
            self._problem(f"{name_of(target)} takes no message; its first parameter is the {message_type.__name__}")
            return
        if skip and (more := [p.name for p in signature.parameters[skip + 1 :] if not p.has_default]):
            self._problem(
                f"{name_of(target)} takes {', '.join(more)} besides the message; a handler class gets what it needs by "
                f"its constructor: move it to __init__"
            )
        accepted = signature.parameters[skip].annotation
        if accepted is not inspect.Parameter.empty and not fits(message_type, accepted):
            self._problem(f"{name_of(target)} takes {show(accepted)} and is bound to {message_type.__name__}")
        if result is not None:
            self._check_result(target, signature, message_type, result, streams=streams)

    def _check_result(
        self, target: Any, signature: Signature, message_type: type, result: Any, *, streams: bool
    ) -> None:
        if not signature.says_what_it_returns:
            return
        returned = unwrapped_result(signature.returns) if streams else signature.returns
        if not fits(returned, result):
            self._problem(
                f"{name_of(target)} returns {show(returned)}, but {message_type.__name__} is answered with "
                f"{show(result)}"
            )

    def _root(self, handling: Handling, kernel: Kernel) -> Send:
        """What `send` calls. A handler that needs no scope and has no behaviors is written right into it."""
        name = self.injector.name
        if not handling.scoped and not handling.behaviors and len(handling.bodies) == 1:
            inner = ["scope = None", *self.sources[handling.bodies[0]]]
        else:
            inner = [f"return await {name(self._chain(handling, kernel), 'chain')}(message)"]
        lines = [
            f"frame = {name(root_frame_of(kernel), 'Frame')}()",
            f"token = frame.token = {name(enter, 'enter')}(frame)",
            "try:",
            *(f"    {line}" for line in inner),
            "finally:",
            f"    {name(leave, 'leave')}(token)",
        ]
        return _function(f"send_{handling.message_type.__name__}", ["message"], lines, self.injector.namespace)

    def _chain(self, handling: Handling, kernel: Kernel) -> Next:
        cores = [_core(body, handling, kernel) for body in handling.bodies]
        return handling.wrapped(handling.with_fallback(cores))

    def _problem(self, sentence: str) -> None:
        self.injector.problem(sentence)


def _next_types(request_type: type, result: Any) -> list[Any]:
    """`NextHandler[request_type, result]`, as a handler's annotation evaluates to it; None stays as it was written."""
    generic: Any = NextHandler
    results = (result, None) if result is type(None) else (result,)
    return [generic[request_type, each] for each in results]


def _core(body: Body, handling: Handling, kernel: Kernel) -> Next:
    if not handling.scoped:
        return partial(body, None)
    return partial(_run, kernel, body, handling.kind == "query")


async def _run(kernel: Kernel, body: Body, read_only: bool, message: object) -> object:
    return await kernel.run(body, message, read_only=read_only)


def _function(name: str, parameters: list[str], lines: list[str], namespace: dict[str, Any]) -> Callable[..., Any]:
    source = f"async def {name}({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
    made: dict[str, Any] = {}
    exec(compile(source, f"<pipeline {name}>", "exec"), namespace, made)  # noqa: S102  # source written by the plan, from names of its own; no input reaches it
    function: Callable[..., Any] = made[name]
    return function
