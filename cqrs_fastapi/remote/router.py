"""Which topic carries which request. Routers are included in one another, and in `cqrs.brokers`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.mediation.answer_codec import codec_of_answers
from cqrs_fastapi.mediation.answers import result_of, show
from cqrs_fastapi.mediation.request_map import RequestBinding, RequestMap
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.forms import Kind, kind_of
from cqrs_fastapi.messages.requests import RequestType
from cqrs_fastapi.remote.refs import finder_of, finding_of, topic_of_refs
from cqrs_fastapi.remote.wire import REPLIES

To = Literal["one", "all"]
Req = TypeVar("Req")
Res = TypeVar("Res")

# What Kafka allows.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class TopicBinding:
    """One line of a router, checked when the application starts."""

    topic: str
    request_type: type
    kind: Kind
    to: To

    @property
    def line(self) -> str:
        """As it was written."""
        return f"router.{self.kind}({self.topic!r}, {self.request_type.__name__})"


class BrokerRouter:
    """Binds topics to requests, whose handlers are those of the application: one handler serves HTTP, broker and
    schedule. Nothing is checked here: all problems are told at once when the application starts.
    """

    def __init__(self) -> None:
        self._bindings: list[TopicBinding] = []
        self._included: list[BrokerRouter] = []
        self._requests = RequestMap()

    def command(self, topic: str, request: RequestType[Req, Res], /, *, to: To = "one") -> None:
        """Carry out what comes on this topic as a `request`, once for each message id.

        The effect, the inbox row that keeps the reply, and the reply itself are one transaction. A DomainError is a
        refusal, kept and answered as well; another error is tried again `handler_attempts` times and then answered as
        a failure, and the message is a dead letter. `to="one"`: one process of this service; `to="all"`: every process
        that runs a consumer at that moment, each once.
        """
        self._bind(topic, request, "command", to)

    def query(self, topic: str, request: RequestType[Req, Res], /, *, to: To = "one") -> None:
        """Answer what comes on this topic as a `request`. It is tried once and answered at most a few times; a process
        that dies meanwhile may leave it unanswered.
        """
        self._bind(topic, request, "query", to)

    def refs(self, aggregate: type[Aggregate], view: type[BaseModel], /, *, topic: str | None = None) -> None:
        """Answer other services what their references to this aggregate mean: those that there are, each as a `view`,
        whose fields are what others may see of it (`id` among them). Its topic is `<class>.refs` unless one is given.
        """
        finding: Any = finding_of(view)
        handler: Any = finder_of(aggregate, view, finding)
        self._requests.bind(finding, handler)
        self._bind(topic or topic_of_refs(aggregate), finding, "query", "one")

    def include(self, other: BrokerRouter) -> None:
        """Take over all bindings of another router, also those it gets later."""
        self._included.append(other)
        self._requests.include(other._requests)  # another of this very class

    def bindings(self) -> list[TopicBinding]:
        """All bindings, in the order they were written."""
        return [*self._bindings, *(binding for other in self._included for binding in other.bindings())]

    def request_bindings(self) -> list[RequestBinding]:
        """The handlers that routers bring along."""
        return self._requests.bindings()

    def _bind(self, topic: str, request: object, kind: Kind, to: To) -> None:
        if not isinstance(request, type):
            raise TypeError(f"router.{kind} takes a topic and the class of a request, not {request!r}")
        self._bindings.append(TopicBinding(topic, request, kind, to))


def problems_of(bindings: Sequence[TopicBinding], events: Iterable[type[AnyEvent]]) -> Iterator[str]:
    """What is wrong with them, each in one sentence that says what to write instead."""
    sent = {topic: event.__name__ for event in events if (topic := definition_of(event).topic) is not None}
    first: dict[str, TopicBinding] = {}
    for binding in bindings:
        if (other := first.setdefault(binding.topic, binding)) is not binding:
            yield f"{binding.line} and {other.line}: a topic carries one kind of request; give one another topic"
        yield from _problems_of_topic(binding, sent)
        yield from _problems_of_request(binding)


def _problems_of_topic(binding: TopicBinding, sent: dict[str, str]) -> Iterator[str]:
    topic = binding.topic
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        yield f"{binding.line}: {topic!r} is no topic name; use 1-249 letters, digits, '.', '_' or '-'"
    if topic.endswith(REPLIES):
        yield f"{binding.line}: topics that end in {REPLIES!r} carry replies; give it another name"
    if topic in sent:
        yield f"{binding.line}: {topic!r} is the topic of the event {sent[topic]}; give the request one of its own"
    if binding.to not in ("one", "all"):
        yield f"{binding.line}: to={binding.to!r} is unknown; write 'one' or 'all'"


def _problems_of_request(binding: TopicBinding) -> Iterator[str]:
    request, kind = binding.request_type, kind_of(binding.request_type)
    if kind == "stream":
        yield f"{binding.line}: a stream request has no single reply; make it a query that answers page by page"
    elif kind is None:
        yield f"{binding.line}: {request.__name__} is neither a Command nor a Query; inherit from one"
    elif kind != binding.kind:
        yield f"{binding.line}: {request.__name__} is a {kind}; write router.{kind}({binding.topic!r}, …)"
    elif not _has_json(request):
        answer: Any = result_of(request)
        yield f"{binding.line}: it is answered with {show(answer)}, which pydantic cannot write as JSON"


def _has_json(request: type) -> bool:
    try:
        codec_of_answers(request)
    except PydanticUserError:
        return False
    return True
