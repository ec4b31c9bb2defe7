"""Which topic an event goes to, and under which key."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from cqrs_fastapi.errors import MalformedMessageError, RegistrationError
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.registry import RegisteredEvent

BUCKETS = 64
"""Rows are spread over this many buckets by the hash of their key; stored rows depend on it, so it never changes."""
MAX_KEY_BYTES = 512

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class Route:
    """Where the events of a class go: to `topic`, and there under their stream as the key, which keeps the order of
    each stream. `key` names an attribute of the event that is the key instead, a field or a property; writers of one
    such key take turns until their commits, so that its messages are in order as well. `ordered=False` lets them go at
    once and promises no order. An event whose attribute is None has no key and no order.
    """

    topic: str
    key: str | None = None
    ordered: bool = True

    @classmethod
    def of(cls, event_type: type[AnyEvent]) -> Route | None:
        """What the class says of itself, by its arguments `topic` and `key`."""
        definition = definition_of(event_type)
        return None if definition.topic is None else cls(definition.topic, definition.key)

    def key_of(self, event: AnyEvent, stream: str | None) -> str | None:
        """MalformedMessageError if the attribute's value can be no key."""
        if self.key is None:
            return stream
        value = getattr(event, self.key)
        return None if value is None else checked_key(str(value))


RoutingFunction: TypeAlias = Callable[[type[AnyEvent]], Route | None]
"""Asked once for each class of events, at the start. None: these events stay in the store. `Route.of(event_type)` is
what holds without a function."""


@dataclass(frozen=True, slots=True)
class Routing:
    """The routes of all classes. Durable handlers of the own service need none: they read the store."""

    route: RoutingFunction = Route.of
    _known: dict[type[AnyEvent], Route | None] = field(default_factory=dict)

    def of(self, event_type: type[AnyEvent]) -> Route | None:
        """Where the event is sent, or None: it stays in the store."""
        try:
            return self._known[event_type]
        except KeyError:
            return self._known.setdefault(event_type, self.route(event_type))

    def topic_of(self, event_type: type[AnyEvent]) -> str | None:
        route = self.of(event_type)
        return None if route is None else route.topic

    def topics_of(self, event_types: Iterable[type[AnyEvent]]) -> list[str]:
        """The topics of these events, each once, sorted."""
        return sorted({topic for one in event_types if (topic := self.topic_of(one)) is not None})

    def check(self, events: Iterable[RegisteredEvent]) -> None:
        """Ask for each class. RegistrationError tells of all that no broker or event could serve."""
        problems = [problem for one in events if (problem := _problem(one, self.of(one.event_type))) is not None]
        if problems:
            raise RegistrationError(problems)


def bucket_of(key: str) -> int:
    """The bucket of a key; a message without one is spread by its own identifier."""
    return zlib.crc32(key.encode()) % BUCKETS


def is_topic(name: str) -> bool:
    """What brokers accept: 1 to 249 letters, digits and `.`, `_`, `-`."""
    return _TOPIC.fullmatch(name) is not None and name not in {".", ".."}


def checked_key(key: str) -> str:
    """A key: text without NUL of 1 to 512 bytes, as databases and brokers keep it; else MalformedMessageError."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise MalformedMessageError("the key of a message is no text: it holds half a character") from None
    if not 0 < size <= MAX_KEY_BYTES or "\0" in key:
        raise MalformedMessageError(
            f"the key of a message has {size} bytes; give it 1 to {MAX_KEY_BYTES} without NUL, or None for no key"
        )
    return key


def _problem(event: RegisteredEvent, route: Route | None) -> str | None:
    name = event.event_type.__name__
    if route is not None and not isinstance(route, Route):
        return f"the routing function gives {route!r} for {name}; write: return Route('topic', key='field'), or None"
    if route is not None and not is_topic(route.topic):
        return f"{name} goes to {route.topic!r}, which is no topic; use 1-249 letters, digits, '.', '_' or '-'"
    if route is None or route.key is None:
        return None
    if not _has(event.event_type, route.key):
        return f"{name} goes to {route.topic!r} under the key {route.key!r}, and has no such field or property"
    if any(one.name == route.key for one in event.personal):
        return f"{name}.{route.key} is personal, and keys are not encrypted; let another field be the key"
    return None


def _has(cls: type, name: str) -> bool:
    """Whether its instances have this attribute. Fields without a default are no attributes of every kind of class."""
    return hasattr(cls, name) or any(name in getattr(base, "__annotations__", ()) for base in cls.__mro__)
