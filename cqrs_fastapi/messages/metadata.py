"""Who caused a message, when, and on whose behalf: it travels with every request and event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol
from uuid import UUID

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Metadata:
    """`message_id` is this message; `correlation_id` the first of all; `causation_id` the one before this."""

    message_id: UUID
    correlation_id: str
    time: datetime
    causation_id: UUID | None = None
    user: str | None = None
    tenant: str | None = None
    traceparent: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @staticmethod
    def current() -> Metadata:
        """The metadata of the message being handled; a LookupError outside of one."""
        return _CURRENT.get().metadata

    def caused(self, message_id: UUID, time: datetime) -> Metadata:
        """The metadata of a message that this one brings about."""
        return self._followed(message_id, time, self.message_id)

    def begun(self, message_id: UUID, time: datetime) -> Metadata:
        """The metadata of a message with this context and no cause."""
        return self._followed(message_id, time, None)

    def _followed(self, message_id: UUID, time: datetime, causation_id: UUID | None) -> Metadata:
        # Made for every message: `dataclasses.replace` takes three times as long.
        return Metadata(
            message_id,
            self.correlation_id,
            time,
            causation_id,
            self.user,
            self.tenant,
            self.traceparent,
            self.headers,
        )


class HoldsMetadata(Protocol):
    """What is being handled in this context; its metadata is made when somebody first asks for it."""

    @property
    def metadata(self) -> Metadata: ...

    def next(self, message_id: UUID, time: datetime) -> Metadata:
        """The metadata of a message that comes out of this one."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was received: it is the cause of whatever follows."""

    metadata: Metadata

    def next(self, message_id: UUID, time: datetime) -> Metadata:
        return self.metadata.caused(message_id, time)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a conversation begins (an HTTP request): it lends its context, but is no message and so no cause."""

    metadata: Metadata

    def next(self, message_id: UUID, time: datetime) -> Metadata:
        return self.metadata.begun(message_id, time)


_CURRENT: ContextVar[HoldsMetadata] = ContextVar("cqrs_metadata")


# Bound, not wrapped: these run for every message.
enter: Callable[[HoldsMetadata], Token[HoldsMetadata]] = _CURRENT.set
"""Make a holder the current one in this context; give the token to `leave`."""

leave: Callable[[Token[HoldsMetadata]], None] = _CURRENT.reset
"""Make current again what was so before the `enter` that gave this token."""


def holder() -> HoldsMetadata | None:
    """What is current in this context, not yet asked for its metadata."""
    return _CURRENT.get(None)
