"""What writes messages into the outbox: of a unit of work, or of a session that belongs to somebody else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry, RegisteredEvent
from cqrs_fastapi.outbox.outgoing import Address, Due, Sendable, event_payload, event_row, outbound_of, raw_row
from cqrs_fastapi.outbox.routing import Route, Routing
from cqrs_fastapi.personal_data.events import NO_KEYS
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.tokens import Place


@dataclass(frozen=True, slots=True)
class Desk:
    """What messages are made with. `max_bytes` is the limit for one of them."""

    registry: EventRegistry
    routing: Routing
    max_bytes: int
    require_sendable: Sendable

    def checked(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row, unless it could not be sent."""
        self.require_sendable(outbound_of(row), row["headers"])
        return row


class Outbox(ABC):
    """Ask for it as a parameter of a handler, or get it by `cqrs.outbox(session)` for a transaction of your own.

    What is added is committed with the transaction, or not at all: a rollback drops it, one to a savepoint what was
    added since. After the commit a relay sends it at least once, always with the message id that was returned here.

    Messages of one topic and key are in order. Whoever writes one takes its turn: a transaction that has added a
    message keeps the others of its key waiting from just before its commit until its end (on PostgreSQL by a lock of
    the key's hash; SQLite has one writer). `ordered=False` waits for nobody and promises no order. Messages with a
    `delay` or a moment `at` are sent after it, and in no order either. The events of a stream have an order of their
    own: a message that is added here under a stream's name takes no turns with them.
    """

    __slots__ = ("_desk",)

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def add(
        self,
        event: AnyEvent,
        /,
        *,
        topic: str | None = None,
        key: str | None = None,
        ordered: bool | None = None,
        delay: timedelta | None = None,
        at: datetime | None = None,
    ) -> UUID:
        """Send an event, without storing it, to the topic and key of its class or those that are given. No handler of
        this unit of work hears of it: that is `UnitOfWork.publish`.

        Raises MalformedMessageError for an event that goes nowhere, MessageTooLargeError, UnknownMessageError for one
        that is not registered, SubjectForgottenError. Nothing has been written then.
        """
        registered = self._desk.registry.of(event)
        route = self._desk.routing.of(registered.event_type) or _nowhere(registered, topic)
        if key is None:
            key = route.key_of(event, None)
        address = Address(topic or route.topic, key, route.ordered if ordered is None else ordered, Due(delay, at))
        metadata = self._next_metadata()
        definition = registered.definition
        keys = await self._keys_for(event, metadata.tenant or "") if registered.personal else NO_KEYS
        place = Place(
            metadata.tenant or "", f"{definition.name}-{metadata.message_id}", definition.name, definition.version
        )
        payload = event_payload(registered, event, place, keys, self._desk.max_bytes)
        row = event_row(definition, metadata, address, payload, category=definition.name, stream=None)
        self._put(self._desk.checked(row))
        return metadata.message_id

    async def add_raw(
        self,
        topic: str,
        payload: bytes,
        /,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ordered: bool = True,
        delay: timedelta | None = None,
        at: datetime | None = None,
    ) -> UUID:
        """Send bytes as they are. The headers are those given, `content-type` (application/octet-stream, unless given)
        and those that say who sent it: message-id, time, correlation-id, causation-id, user, tenant, traceparent.

        Raises MalformedMessageError for a topic, key or header that no broker could take, and MessageTooLargeError.
        Nothing has been written then.
        """
        address = Address(topic, key, ordered, Due(delay, at))
        metadata = self._next_metadata()
        row = raw_row(metadata, address, payload, headers or {}, max_bytes=self._desk.max_bytes)
        self._put(self._desk.checked(row))
        return metadata.message_id

    @abstractmethod
    def _next_metadata(self) -> Metadata:
        """Of the message that is being added."""

    @abstractmethod
    async def _keys_for(self, event: AnyEvent, tenant: str) -> Mapping[str, SubjectKey]:
        """What its personal fields, of which it has some, are encrypted with."""

    @abstractmethod
    def _put(self, row: Mapping[str, Any]) -> None:
        """Keep the row for the commit."""


def _nowhere(registered: RegisteredEvent, topic: str | None) -> Route:
    """The route of an event that has none, if the caller names a topic."""
    if topic is None:
        name = registered.event_type.__name__
        raise MalformedMessageError(
            f"{name} has no topic, so that it cannot be sent; write class {name}(Event, topic='...'), or "
            f"outbox.add(event, topic='...')"
        )
    return Route(topic)
