"""Receives requests from the broker, gives them to their handlers and lets their senders know.

A command, step by step:
1. Its inbox row is looked for: one that is there holds the reply, which is sent again.
2. Its handler runs. What it did, the inbox row with the reply, and the reply in the outbox are one transaction.
   A refusal leaves nothing but the row and the reply; a failure beyond the attempts is a dead letter besides.
3. Only then may the offset pass. Whoever dies before leaves a message that is received again, and step 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import structlog

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.parking import Reason
from cqrs_fastapi.errors import DomainError, MessageError, MessageTooLargeError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.claims import AlreadySettledError
from cqrs_fastapi.inbox.envelope import metadata_of
from cqrs_fastapi.inbox.handling import Handlings, Settlement, wait_for
from cqrs_fastapi.messages.json_codec import JsonCodec, codec_for
from cqrs_fastapi.remote.errors import UnanswerableError
from cqrs_fastapi.remote.router import TopicBinding
from cqrs_fastapi.remote.running import Running
from cqrs_fastapi.remote.settling import Arrived, Settling, failure_of
from cqrs_fastapi.remote.wire import Reply, Status, address_of

log = structlog.get_logger("cqrs_fastapi")

_UNAVAILABLE = (UnavailableError, UnknownOutcomeError)


@dataclass(frozen=True, slots=True)
class RequestReceiver:
    """For the topics of requests. The class is the one that is bound to the topic, whatever a message says it is."""

    bindings: Mapping[str, TopicBinding]
    handlings: Handlings
    running: Running
    settling: Settling

    async def receive(self, message: IncomingMessage, stop: asyncio.Event) -> bool:
        """Settle it; False if it was time to stop before that."""
        binding = self.bindings[message.topic]
        consumer = self.settling.consumer_of(binding)
        try:
            arrived = self._open(message, binding, consumer)
        except MessageError as error:
            return await self._refuse(message, consumer, error, stop)
        if binding.kind == "query":
            await self._answer(arrived)
            return True
        return await self._carry_out(arrived, stop)

    def _open(self, message: IncomingMessage, binding: TopicBinding, consumer: str) -> Arrived:
        limit = self.handlings.settings.max_message_bytes
        if len(message.payload) > limit:
            raise MessageTooLargeError(what="the payload", size=len(message.payload), limit=limit)
        metadata, address = metadata_of(message), address_of(message)
        request = _codec_of(binding.request_type).decode(message.payload)
        return Arrived(request, metadata, address, consumer, message)

    async def _refuse(self, message: IncomingMessage, consumer: str, error: MessageError, stop: asyncio.Event) -> bool:
        """Of what cannot be understood the bytes are kept; whoever sent it learns why, if it says so much."""
        try:
            metadata, address = metadata_of(message), address_of(message)
        except MessageError:
            parked = await self.handlings.park(consumer, message, Reason.of(error), stop)
            return parked is not Settlement.STOPPED
        arrived = Arrived(None, metadata, address, consumer, message)
        return await self.settling.give_up(arrived, error, stop)

    async def _answer(self, arrived: Arrived) -> None:
        """A query, once. It changes nothing, so what its reply is lost to can be asked again."""
        try:
            reply = await self.running.query(arrived)
        except DomainError as error:
            reply = Reply.without(Status.REFUSAL, error.code, str(error))
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure
            log.warning("query_failed", consumer=arrived.consumer, error=repr(error))
            reply = failure_of(error)
        await self.settling.publish(arrived, reply)

    async def _carry_out(self, arrived: Arrived, stop: asyncio.Event) -> bool:
        attempts = 0
        while True:
            try:
                return await self._attempt(arrived, stop)
            except AlreadySettledError:
                pass  # by somebody else meanwhile, whose reply is looked for now
            except _UNAVAILABLE as error:
                # Nothing was written, or it is unknown: the inbox row tells the next attempt.
                await self._pause(attempts + 1, arrived, error, stop)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure, kept with the message
                attempts += 1
                if isinstance(error, UnanswerableError) or attempts >= self.handlings.settings.handler_attempts:
                    return await self.settling.give_up(arrived, error, stop)
                await self._pause(attempts, arrived, error, stop)
            if stop.is_set():
                return False

    async def _attempt(self, arrived: Arrived, stop: asyncio.Event) -> bool:
        if await self.settling.answered_before(arrived):
            return True
        try:
            reply = await self.running.command(arrived)
        except DomainError as error:
            reply = Reply.without(Status.REFUSAL, error.code, str(error))
        if reply is not None:
            return await self.settling.keep(arrived, reply, stop)
        self.settling.wake()
        return True

    async def _pause(self, attempts: int, arrived: Arrived, error: Exception, stop: asyncio.Event) -> None:
        log.warning("handler_failed", consumer=arrived.consumer, attempt=attempts, error=repr(error))
        await wait_for(stop, self.handlings.pause_after(attempts))


@lru_cache(maxsize=1024)
def _codec_of(request_type: type) -> JsonCodec:
    return codec_for(request_type)
