"""The inbox of requests: what was answered, kept with the effect, and sent again to whoever asks again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Row, select, update

from cqrs_fastapi.brokers.broker import Delivery, IncomingMessage
from cqrs_fastapi.dead_letters.changing import remove
from cqrs_fastapi.dead_letters.parking import Letter, Reason
from cqrs_fastapi.errors import CqrsError, MessageError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.attempts import forget
from cqrs_fastapi.inbox.claims import DONE, AlreadySettledError, claim, claim_parked
from cqrs_fastapi.inbox.handling import Handlings, Settlement, wait_for
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.remote.router import TopicBinding
from cqrs_fastapi.remote.sender import DirectSender
from cqrs_fastapi.remote.wire import Address, Reply, Status, insert, outgoing, reply_row, restored

log = structlog.get_logger("cqrs_fastapi")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request that was received. `consumer` names its handler in the inbox; `letter` is what is replayed."""

    request: object
    metadata: Metadata
    address: Address | None
    consumer: str
    message: IncomingMessage
    letter: Letter | None = None

    @property
    def fingerprint(self) -> str:
        """Of what was asked, for whom: the same message id with another one is another request."""
        asked = (self.metadata.tenant or "", self.metadata.user or "")
        digest = hashlib.sha256("\0".join(asked).encode() + b"\0" + self.message.payload)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Settling:
    """For one process, whose id is part of the names where each process receives for itself."""

    handlings: Handlings
    sender: DirectSender
    wake: Callable[[], None]
    process: UUID

    def consumer_of(self, binding: TopicBinding) -> str:
        """The name in the inbox; it stays the same when the handler changes."""
        name = f"{binding.kind}:{binding.topic}"
        return name if binding.to == "one" else f"{name}@{self.process}"

    def write(self, connection: Connection, arrived: Arrived, reply: Reply) -> None:
        """In the transaction of the effect: that it was done, what was said, and the saying of it.

        Raises AlreadySettledError if it was done before; the transaction must leave nothing then.
        """
        tables, now = self.handlings.database.tables, self.handlings.kernel.clock.now()
        stored, message_id = reply.stored(arrived.fingerprint), arrived.metadata.message_id
        if arrived.letter is None:
            claim(connection, tables, arrived.consumer, message_id, status=DONE, now=now, reply=stored)
            if self.handlings.doubts.has(arrived.consumer, message_id):
                forget(connection, tables, arrived.consumer, message_id)
        else:
            remove(connection, tables, arrived.letter)
            claim_parked(connection, tables, arrived.consumer, message_id, now=now)
            self._keep_reply(connection, arrived, stored)
        self._send(connection, arrived, reply)

    async def answered_before(self, arrived: Arrived) -> bool:
        """Whether it was settled before; then what was said is said again, to whoever asks now."""
        database = self.handlings.database
        row = await database.read_few(partial(self._find, arrived=arrived))
        if row is None:
            return False
        await database.write(partial(self._send, arrived=arrived, reply=self._said(arrived, row.reply)))
        self.wake()
        return True

    async def keep(self, arrived: Arrived, reply: Reply, stop: asyncio.Event) -> bool:
        """Settle it with nothing but a reply; False if it was time to stop while the database was away."""
        failures = 0
        while True:
            try:
                if not await self.answered_before(arrived):
                    await self.handlings.database.write(partial(self.write, arrived=arrived, reply=reply))
                    self.wake()
            except AlreadySettledError:
                continue
            except (UnavailableError, UnknownOutcomeError):
                failures += 1
                await wait_for(stop, self.handlings.pause_after(failures))
            else:
                return True
            if stop.is_set():
                return False

    async def replace(self, arrived: Arrived, reply: Reply) -> None:
        """Settle a letter with nothing but a reply."""
        await self.handlings.database.write(partial(self.write, arrived=arrived, reply=reply))

    async def give_up(self, arrived: Arrived, error: Exception, stop: asyncio.Event) -> bool:
        """A dead letter, the inbox row and the reply in one transaction; False if it was time to stop before."""
        reply = failure_of(error)
        also = partial(self._answer_parked, arrived=arrived, reply=reply)
        parked = await self.handlings.park(arrived.consumer, arrived.message, Reason.of(error), stop, also)
        if parked is Settlement.BEFORE:
            return await self.keep(arrived, reply, stop)
        self.wake()
        return parked is Settlement.NOW

    async def publish(self, arrived: Arrived, reply: Reply) -> None:
        """Without the outbox, for a query. A reply that does not get through is lost, and said so."""
        if arrived.address is None:
            log.warning("nobody_wants_the_answer", consumer=arrived.consumer)
            return
        row = reply_row(reply, arrived.metadata, arrived.address, self._replier(arrived), self._now())
        try:
            outcome = await self.sender.send(outgoing(row))
        except UnavailableError as error:
            log.warning("reply_lost", consumer=arrived.consumer, error=str(error))
            return
        if outcome.delivery is not Delivery.ACKNOWLEDGED:
            log.warning("reply_lost", consumer=arrived.consumer, error=outcome.reason)

    def _answer_parked(self, connection: Connection, arrived: Arrived, reply: Reply) -> None:
        self._keep_reply(connection, arrived, reply.stored(arrived.fingerprint))
        self._send(connection, arrived, reply)

    def _keep_reply(self, connection: Connection, arrived: Arrived, stored: str) -> None:
        inbox = self.handlings.database.tables.inbox
        row = (inbox.c.consumer == arrived.consumer) & (inbox.c.message_id == arrived.metadata.message_id)
        connection.execute(update(inbox).where(row).values(reply=stored))

    def _send(self, connection: Connection, arrived: Arrived, reply: Reply) -> None:
        if arrived.address is not None:
            row = reply_row(reply, arrived.metadata, arrived.address, self._replier(arrived), self._now())
            insert(connection, self.handlings.database.tables, row)

    def _find(self, connection: Connection, arrived: Arrived) -> Row[Any] | None:
        inbox = self.handlings.database.tables.inbox
        query = select(inbox.c.reply).where(
            inbox.c.consumer == arrived.consumer, inbox.c.message_id == arrived.metadata.message_id
        )
        return connection.execute(query).one_or_none()

    def _said(self, arrived: Arrived, stored: str | None) -> Reply:
        if stored is None:
            return Reply.without(Status.UNKNOWN, "reply_not_kept", "it was settled before, and its reply was not kept")
        fingerprint, reply = restored(stored)
        if fingerprint == arrived.fingerprint:
            return reply
        log.error("message_id_reused", consumer=arrived.consumer, message_id=str(arrived.metadata.message_id))
        return Reply.without(
            Status.FAILURE, "message_id_reused", "this message id was used before for another request; nothing was done"
        )

    def _replier(self, arrived: Arrived) -> str:
        return f"{self.handlings.settings.service} {arrived.consumer}"

    def _now(self) -> Any:
        return self.handlings.kernel.clock.now()


def failure_of(error: Exception) -> Reply:
    """What somebody else may know of it: the text of a message that was wrong, and of everything else the kind."""
    if isinstance(error, MessageError):
        return Reply.without(Status.FAILURE, error.code, str(error))
    code = error.code if isinstance(error, CqrsError) else "internal"
    return Reply.without(Status.FAILURE, code, "it could not be done; the receiver's log says why")
