"""What the messages of events come to: an event for one handler, or a message that cannot be understood."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.parking import Reason
from cqrs_fastapi.errors import MessageError, UnavailableError
from cqrs_fastapi.inbox.cases import Case
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.handling import Handlings, Settlement, wait_for
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError

log = structlog.get_logger("cqrs_fastapi")

Open = Callable[[IncomingMessage], Awaitable[Sequence[Envelope]]]

_PAUSE_WHILE_AWAY, _PAUSE_WHILE_FORGETTING = 0.5, 0.05


@dataclass(slots=True, eq=False)
class EventPiece:
    """An event for one durable handler, with its inbox row."""

    handlings: Handlings
    handling: Handling
    envelope: Envelope
    message: IncomingMessage
    open: Open
    closed: set[bytes]
    """Keys that are closed for the handler, shared by its pieces."""

    @property
    def case(self) -> Case:
        return Case(self.handling, self.envelope, self.message, None, self.closed)

    @property
    def consumer(self) -> str:
        return self.handling.consumer

    @property
    def may_share(self) -> bool:
        if self.handling.effects != "database":
            return False
        return not self.handlings.doubts.has(self.consumer, self.envelope.metadata.message_id)

    async def settle(self, stop: asyncio.Event) -> bool:
        while not stop.is_set():
            try:
                settlement = await self.handlings.settle(
                    self.handling, self.envelope, self.message, stop, closed=self.closed
                )
            except ForgottenMeanwhileError as error:
                log.info("message_opened_again", consumer=self.consumer, reason=error.code)
                await wait_for(stop, _PAUSE_WHILE_FORGETTING)
                if not await self._open_again(stop):
                    return True
            else:
                return settlement is not Settlement.STOPPED
        return False

    async def _open_again(self, stop: asyncio.Event) -> bool:
        """Somebody whose data it holds was forgotten. False if it was settled as what cannot be understood."""
        try:
            opened = await self.open(self.message)
        except UnavailableError as error:
            log.warning("message_not_decrypted", consumer=self.consumer, error=str(error))
            await wait_for(stop, _PAUSE_WHILE_AWAY)
            return True
        except MessageError as error:
            reason, closed = Reason.of(error), self.closed
            parked = await self.handlings.park(self.consumer, self.message, reason, stop, closed=closed)
            return parked is Settlement.STOPPED
        message_id = self.envelope.metadata.message_id
        self.envelope = next((one for one in opened if one.metadata.message_id == message_id), self.envelope)
        return True


@dataclass(frozen=True, slots=True, eq=False)
class RefusedPiece:
    """A message that cannot be understood; it is kept as a dead letter of the group."""

    handlings: Handlings
    consumer: str
    message: IncomingMessage
    reason: Reason

    @property
    def may_share(self) -> bool:
        return False

    async def settle(self, stop: asyncio.Event) -> bool:
        return await self.handlings.park(self.consumer, self.message, self.reason, stop) is not Settlement.STOPPED
