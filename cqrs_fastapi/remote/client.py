"""Sends commands and queries to other services over the broker, and waits for their replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeVar, cast
from uuid import UUID

from pydantic.errors import PydanticUserError

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.errors import CqrsError, MessageTooLargeError, ScopeClosedError
from cqrs_fastapi.mediation.answer_codec import codec_of_answers
from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.mediation.scope import Scope, current_scope
from cqrs_fastapi.messages.forms import Kind, kind_of
from cqrs_fastapi.messages.json_codec import JsonCodec, codec_for
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.requests import Request
from cqrs_fastapi.remote.answers import Answer, Asked, Replies, answer_of
from cqrs_fastapi.remote.errors import InsideUnitOfWorkError
from cqrs_fastapi.remote.line import Line
from cqrs_fastapi.remote.wire import Address, insert, outgoing, request_row
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.unit_of_work.causes import next_metadata

R = TypeVar("R")

MOST_REPLIES = 1000
"""That `ask_many` keeps where no number is given."""


@dataclass(frozen=True, slots=True)
class BrokerClient:
    """A parameter of this type, or `cqrs.broker_client`. User, tenant, correlation and trace go along as they are.

    Sent is in the caller's name what the receiver's authorisation must judge: a topic does not prove who wrote to it.
    """

    kernel: Kernel
    database: Database
    settings: Settings
    line: Line
    wake: Callable[[], None]

    async def send(
        self,
        request: Request[R],
        /,
        *,
        topic: str,
        timeout: float = 10.0,  # noqa: ASYNC109  # its end is an error of ours, which says what it means
        message_id: UUID | None = None,
    ) -> R:
        """Have the request answered by the service that has bound the topic to it. See `ask`."""
        return (await self.ask(request, topic=topic, timeout=timeout, message_id=message_id)).value

    async def ask(
        self,
        request: Request[R],
        /,
        *,
        topic: str,
        timeout: float = 10.0,  # noqa: ASYNC109  # its end is an error of ours, which says what it means
        message_id: UUID | None = None,
    ) -> Answer[R]:
        """The answer with the reply's headers, after at most `timeout` seconds.

        A command is carried out once for each `message_id` (a new one unless it is given): sent again with the same, it
        is answered as the first time. Raises RemoteRefusedError, RemoteFailedError, and without a reply
        RemoteUnknownOutcomeError for a command, NoReplyError for a query; UnavailableError if the broker is away and
        nothing was sent. Cancelled, it waits no longer, and a command that was sent may still be done.

        Inside of a unit of work a command is refused with InsideUnitOfWorkError; `post` it.
        """
        outgoing = self._prepared(request, topic, message_id)
        ends = asyncio.get_running_loop().time() + timeout
        replies, why = await self.line.exchange(outgoing.to, 1, ends)
        if not replies:
            raise outgoing.asked.unknown(why)
        answer = answer_of(replies[0], outgoing.asked, max_bytes=self.settings.max_message_bytes)
        return cast("Answer[R]", answer)

    async def ask_many(
        self,
        query: Request[R],
        /,
        *,
        topic: str,
        replies: int | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109  # as above
    ) -> Replies[R]:
        """What several receivers say: those of several services, or of several processes of one that is bound with
        `to="all"`. Returns with the n-th reply, or with those that came when the time is over.

        Without `replies` it takes the whole time. Refusals and failures are among `errors`. Raises NoReplyError if not
        one came for trouble with the broker, and UnavailableError as `ask` does.
        """
        outgoing = self._prepared(query, topic, None)
        ends = asyncio.get_running_loop().time() + timeout
        came, _ = await self.line.exchange(outgoing.to, replies or MOST_REPLIES, ends)
        answers, errors = list[Answer[R]](), list[CqrsError]()
        for reply in came:
            try:
                answers.append(answer_of(reply, outgoing.asked, max_bytes=self.settings.max_message_bytes))
            except CqrsError as error:
                errors.append(error)
        return Replies(tuple(answers), tuple(errors), complete=replies is not None and len(came) == replies)

    async def post(self, command: Request[Any], /, *, topic: str, message_id: UUID | None = None) -> UUID:
        """Send a command without waiting for it: through the outbox, with the commit of the unit of work that is open
        here, or in a transaction of its own. Returns its message id. It arrives at least once, is carried out once, and
        nobody hears how it went.
        """
        kind, metadata = _kind_of(command), self._metadata(message_id)
        if kind != "command":
            raise TypeError(f"{type(command).__name__} is no command: what is only asked needs an answer; send it")
        row = request_row(type(command).__name__, metadata, topic, self._payload(command), None)
        write = partial(insert, tables=self.database.tables, row=row)
        scope = _open_scope()
        if scope is not None:
            scope.require_writable(f"posted the command {type(command).__name__}")
            scope.unit_of_work.join(write, sends=True)
        else:
            await self.database.write(write)
            self.wake()
        return metadata.message_id

    def _prepared(self, request: Request[Any], topic: str, message_id: UUID | None) -> _Prepared:
        kind, name, scope = _kind_of(request), type(request).__name__, _open_scope()
        if kind == "command" and scope is not None:
            scope.require_writable(f"sent the command {name} to {topic}")
            raise InsideUnitOfWorkError(name, topic)
        _require_answer(type(request))
        metadata = self._metadata(message_id)
        asked = Asked(type(request), topic, metadata.message_id, kind == "command")
        return _Prepared(asked, metadata, self._payload(request))

    def _metadata(self, message_id: UUID | None) -> Metadata:
        metadata = next_metadata(self.kernel)
        return metadata if message_id is None else replace(metadata, message_id=message_id)

    def _payload(self, request: object) -> bytes:
        cls: type = type(request)
        payload = _codec_of(cls).encode(request)
        limit = self.settings.max_event_bytes
        if len(payload) > limit:
            raise MessageTooLargeError(what=type(request).__name__, size=len(payload), limit=limit)
        return payload


@dataclass(frozen=True, slots=True)
class _Prepared:
    asked: Asked
    metadata: Metadata
    payload: bytes

    def to(self, address: Address) -> OutgoingMessage:
        name = self.asked.request_type.__name__
        return outgoing(request_row(name, self.metadata, self.asked.topic, self.payload, address))


def _kind_of(request: object) -> Kind:
    kind = kind_of(type(request))
    if kind in ("command", "query"):
        return kind
    raise TypeError(f"{type(request).__name__} is neither a Command nor a Query, and cannot be sent over the broker")


def _require_answer(cls: type) -> None:
    """Before anything is sent whose reply could never be read."""
    try:
        codec_of_answers(cls)
    except PydanticUserError:
        raise TypeError(f"what {cls.__name__} is answered with is nothing that pydantic reads from JSON") from None


def _open_scope() -> Scope | None:
    """The unit of work that is open here; a task that outlived one is outside."""
    scope = current_scope()
    if scope is None:
        return None
    try:
        scope.require_open()
    except ScopeClosedError:
        return None
    return scope


@lru_cache(maxsize=1024)
def _codec_of(request_type: type) -> JsonCodec:
    return codec_for(request_type)
