"""Receives requests from the broker, gives them to their handlers and lets their senders know.

A command, step by step:
1. Its inbox row is looked for: one that is there holds the reply, which is sent again.
2. Its handler runs. What it did, the inbox row with the reply, and the reply in the outbox are one transaction.
   A refusal leaves nothing but the row and the reply; a failure beyond the attempts is a dead letter besides.
3. Only then may the offset pass. Whoever dies before leaves a message that is received again, and step 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import structlog

from cqrs_fastapi.brokers.broker import IncomingMessage, Place
from cqrs_fastapi.dead_letters.parking import Letter, Reason
from cqrs_fastapi.errors import DomainError, MessageError
from cqrs_fastapi.inbox.claims import AlreadySettledError
from cqrs_fastapi.inbox.dispatches import NOBODY, Dispatches
from cqrs_fastapi.inbox.handling import Handlings, Settlement, wait_for
from cqrs_fastapi.inbox.receiver import Piece
from cqrs_fastapi.inbox.replaying import message_in
from cqrs_fastapi.inbox.verdicts import Again, Drop, Judge
from cqrs_fastapi.mediation.failure_policy import FailurePolicy
from cqrs_fastapi.mediation.steering import RetryLater
from cqrs_fastapi.messages.json_codec import JsonCodec, codec_for
from cqrs_fastapi.remote.router import TopicBinding
from cqrs_fastapi.remote.running import Running
from cqrs_fastapi.remote.settling import Arrived, Settling, failure_of
from cqrs_fastapi.remote.wire import Reply, Status, address_of, message_id_of, metadata_of, payload_of

log = structlog.get_logger("cqrs_fastapi")


@dataclass(frozen=True, slots=True)
class RequestReceiver:
    """For the topics of requests. The class is the one that is bound to the topic, whatever a message says it is.
    Without `dispatches` nobody goes on where this process dies.
    """

    bindings: Mapping[str, TopicBinding]
    handlings: Handlings
    running: Running
    settling: Settling
    dispatches: Dispatches | None

    async def open(self, messages: Sequence[IncomingMessage]) -> Sequence[Sequence[Piece]]:
        last, doubted = messages[-1], NOBODY
        if self.dispatches is not None:
            doubted = await self.dispatches.begin(last.place, last.offset)
        for message in messages:
            if message.offset <= doubted and (message_id := message_id_of(message)) is not None:
                self.handlings.doubts.add(self._consumer_of(message), [message_id])
        return [[RequestPiece(self, self._consumer_of(message), message)] for message in messages]

    async def settle_together(self, pieces: Sequence[Piece], stop: asyncio.Event) -> Collection[Piece]:  # noqa: ARG002
        return ()

    async def give_up(self, place: Place, *, is_finished: bool) -> None:
        if self.dispatches is None:
            return
        if is_finished:
            await self.dispatches.end(place)
        else:
            self.dispatches.leave(place)

    async def settle(self, message: IncomingMessage, stop: asyncio.Event) -> bool:
        """False if it was time to stop before that."""
        try:
            arrived = self._open(message)
        except MessageError as error:
            return await self._refuse(message, error, stop)
        if self.bindings[message.topic].kind == "query":
            await self.settling.publish(arrived, await self._answer(arrived))
            return True
        return await self._carry_out(arrived, stop)

    async def replay(self, letter: Letter) -> None:
        """Once; whoever asked is answered again. The error is the caller's."""
        message = message_in(letter)
        arrived = replace(self._open(message), letter=letter)
        if self.bindings[message.topic].kind == "query":
            answer = await self._answer(arrived)
            await self.settling.publish(arrived, answer)
            await self.settling.replace(arrived, answer)
        elif (reply := await self._tried(arrived)) is not None:
            await self.settling.replace(arrived, reply)
        self.settling.wake()

    def _consumer_of(self, message: IncomingMessage) -> str:
        return self.settling.consumer_of(self.bindings[message.topic])

    def _open(self, message: IncomingMessage) -> Arrived:
        payload = payload_of(message, max_bytes=self.handlings.settings.max_message_bytes)
        metadata, address = metadata_of(message), address_of(message)
        request = _codec_of(self.bindings[message.topic].request_type).decode(payload)
        return Arrived(request, metadata, address, self._consumer_of(message), message)

    async def _refuse(self, message: IncomingMessage, error: MessageError, stop: asyncio.Event) -> bool:
        """Of what cannot be understood the bytes are kept; whoever sent it learns why, if it says so much."""
        consumer = self._consumer_of(message)
        try:
            metadata, address = metadata_of(message), address_of(message)
        except MessageError:
            parked = await self.handlings.park(consumer, message, Reason.of(error), stop)
            return parked is not Settlement.STOPPED
        arrived = Arrived(None, metadata, address, consumer, message)
        return await self.settling.give_up(arrived, error, stop)

    async def _answer(self, arrived: Arrived) -> Reply:
        """To a query, by one try. It changes nothing, so what its reply is lost to can be asked again."""
        try:
            return await self.running.query(arrived)
        except DomainError as error:
            return Reply.without(Status.REFUSAL, error.code, str(error))
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure
            log.warning("query_failed", consumer=arrived.consumer, error=repr(error))
            return failure_of(error)

    async def _carry_out(self, arrived: Arrived, stop: asyncio.Event) -> bool:
        """A failure is judged as that of an event's handler is. Since somebody waits for the reply, what is to be given
        again later waits in place, and what is discarded is answered as a failure.
        """
        judge, tries, counted = Judge(FailurePolicy(), self.handlings.settings), 0, 0
        while True:
            tries += 1
            try:
                return await self._attempt(arrived, judge, stop)
            except AlreadySettledError:
                pass  # by somebody else meanwhile, whose reply is looked for now
            except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure, kept with the message
                verdict = judge.verdict(error, counted=counted, tries=tries)
                if isinstance(verdict, Drop):
                    return await self.settling.keep(arrived, failure_of(error), stop)
                if isinstance(error, RetryLater):
                    await self._pause(tries, arrived, error, error.after.total_seconds(), stop)
                elif isinstance(verdict, Again):
                    counted += verdict.counts
                    await self._pause(tries, arrived, error, verdict.pause, stop)
                else:
                    return await self.settling.give_up(arrived, error, stop)
            if stop.is_set():
                return False

    async def _attempt(self, arrived: Arrived, judge: Judge, stop: asyncio.Event) -> bool:
        if await self.settling.answered_before(arrived):
            return True
        message_id = arrived.metadata.message_id
        if self.handlings.doubts.has(arrived.consumer, message_id):
            async with self.handlings.in_doubt(arrived.consumer, message_id, limit=judge.limit):
                return await self._done(arrived, stop)
        return await self._done(arrived, stop)

    async def _done(self, arrived: Arrived, stop: asyncio.Event) -> bool:
        reply = await self._tried(arrived)
        if reply is not None:
            return await self.settling.keep(arrived, reply, stop)
        self.settling.wake()
        return True

    async def _tried(self, arrived: Arrived) -> Reply | None:
        """None: it is done and settled. A reply: nothing but that is to be settled."""
        try:
            return await self.running.command(arrived)
        except DomainError as error:
            return Reply.without(Status.REFUSAL, error.code, str(error))

    async def _pause(self, tries: int, arrived: Arrived, error: Exception, seconds: float, stop: asyncio.Event) -> None:
        log.warning("handler_failed", consumer=arrived.consumer, attempt=tries, error=repr(error))
        await wait_for(stop, seconds)


@dataclass(frozen=True, slots=True, eq=False)
class RequestPiece:
    """A request, which is opened when its turn comes."""

    receiver: RequestReceiver
    consumer: str
    message: IncomingMessage

    @property
    def may_share(self) -> bool:
        return False

    async def settle(self, stop: asyncio.Event) -> bool:
        return await self.receiver.settle(self.message, stop)


@lru_cache(maxsize=1024)
def _codec_of(request_type: type) -> JsonCodec:
    return codec_for(request_type)
