"""Handlers of which every process has its own: no inbox, no dead letter, no memory of an earlier start."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog

from cqrs_fastapi.brokers.broker import IncomingMessage, Place
from cqrs_fastapi.errors import MessageError
from cqrs_fastapi.inbox.cases import Case
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.handling import Handlings, wait_for
from cqrs_fastapi.inbox.receiver import Piece
from cqrs_fastapi.inbox.revealing import reveal_message
from cqrs_fastapi.inbox.transport import received
from cqrs_fastapi.inbox.verdicts import Again
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.received_message import receiving
from cqrs_fastapi.messages.registry import EventRegistry

log = structlog.get_logger("cqrs_fastapi")


@dataclass(frozen=True, slots=True)
class EachProcessReceiver:
    """What cannot be understood is passed over with a warning: the service's own group keeps it."""

    handlings: Handlings
    registry: EventRegistry

    async def open(self, messages: Sequence[IncomingMessage]) -> Sequence[Sequence[Piece]]:
        return [await self._pieces(message) for message in messages]

    async def settle_together(self, pieces: Sequence[Piece], stop: asyncio.Event) -> Collection[Piece]:  # noqa: ARG002
        return ()

    async def give_up(self, place: Place, *, is_finished: bool) -> None:
        """Nothing is remembered of it."""

    async def _pieces(self, message: IncomingMessage) -> Sequence[Piece]:
        limit = self.handlings.settings.max_message_bytes
        try:
            envelopes = await reveal_message(
                message, self.registry, self.handlings.personal, self.handlings.envelopes, max_bytes=limit
            )
        except MessageError as error:
            log.warning("message_passed_over", topic=message.topic, code=error.code, error=str(error))
            return ()
        each = self.handlings.kernel.pipelines.each_process
        return [
            _Piece(self.handlings, handling, envelope, message)
            for envelope in envelopes
            for handling in each.get(type(envelope.event), ())
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    handlings: Handlings
    handling: Handling
    envelope: Envelope
    message: IncomingMessage

    @property
    def consumer(self) -> str:
        return self.handling.consumer

    @property
    def may_share(self) -> bool:
        return False

    async def settle(self, stop: asyncio.Event) -> bool:
        """A failure is judged as that of others is; where a letter would be kept, the message is passed over."""
        judge, counted, tries = self.handlings.judge(self.handling), 0, 0
        while not stop.is_set():
            tries += 1
            try:
                await self._attempt(tries)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure
                told = type(error).__name__ if self.envelope.key_ids else repr(error)
                verdict = judge.verdict(error, counted=counted, tries=tries)
                if not isinstance(verdict, Again):
                    log.error("message_passed_over", consumer=self.consumer, attempts=tries, error=told)
                    return True
                log.warning("handler_failed", consumer=self.consumer, attempt=tries, error=told)
                counted += verdict.counts
                await wait_for(stop, verdict.pause)
            else:
                return True
        return False

    async def _attempt(self, attempt: int) -> None:
        if not Case(self.handling, self.envelope, self.message).is_wanted():
            return
        with receiving(received(self.message, attempt)):
            await self.handlings.kernel.pipelines.run(
                self.handling, self.envelope.event, self.envelope.metadata, _nothing_first
            )


async def _nothing_first(_: Scope) -> None:
    return
