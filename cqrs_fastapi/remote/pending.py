"""The requests of this process that wait for replies, each known by a token that nobody can guess."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.errors import OverloadedError
from cqrs_fastapi.messages.headers import REPLY_TOKEN
from cqrs_fastapi.remote.wire import message_id_of

log = structlog.get_logger("cqrs_fastapi")

_RANDOM_BYTES = 24


@dataclass(slots=True)
class Waiting:
    """One request. `replies` never grows beyond `wanted`, and has no two of one id: a duplicate counts once."""

    token: str
    wanted: int
    replies: list[IncomingMessage] = field(default_factory=list)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False
    """The client was closed: nothing more will come."""
    _ids: set[UUID | None] = field(default_factory=set)

    def take(self, reply: IncomingMessage) -> None:
        """One more reply, unless it is known or too many."""
        message_id = message_id_of(reply)
        if message_id in self._ids or len(self.replies) >= self.wanted:
            return
        self._ids.add(message_id)
        self.replies.append(reply)
        if len(self.replies) == self.wanted:
            self.complete.set()


@dataclass(slots=True)
class Pending:
    """At most `limit` at once. The process's name in a token tells late replies from those of other processes."""

    process: UUID
    limit: int
    token_of: Callable[[int], str] = secrets.token_urlsafe
    _waiting: dict[str, Waiting] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def expect(self, wanted: int) -> Iterator[Waiting]:
        """Wait for so many replies inside of the block; those that come afterwards are late."""
        if len(self._waiting) >= self.limit:
            raise OverloadedError(f"{self.limit} requests wait for their replies; try again in a moment")
        waiting = Waiting(f"{self.process.hex}.{self.token_of(_RANDOM_BYTES)}", wanted)
        self._waiting[waiting.token] = waiting
        try:
            yield waiting
        finally:
            self._waiting.pop(waiting.token, None)

    def deliver(self, reply: IncomingMessage) -> None:
        """Give a reply to whoever waits for it. One for another process is nobody's business here."""
        token = reply.headers.get(REPLY_TOKEN, b"").decode("ascii", "replace")
        waiting = self._waiting.get(token)
        if waiting is not None:
            waiting.take(reply)
        elif token.startswith(self.process.hex):
            log.info("reply_came_late_or_twice", topic=reply.topic, message_id=str(message_id_of(reply)))

    def close(self) -> None:
        """Nothing more will come: those who wait learn it now."""
        for waiting in self._waiting.values():
            waiting.closed = True
            waiting.complete.set()
