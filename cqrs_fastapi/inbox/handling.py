"""Gives one message to one durable handler until it is settled: done, or parked as a dead letter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.parking import DeadLetter, Reason, park
from cqrs_fastapi.errors import CqrsError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.claims import DONE, PARKED, AlreadySettledError, claim
from cqrs_fastapi.inbox.envelope import Envelope, message_id_of, text_headers
from cqrs_fastapi.inbox.transport import handed_in, received
from cqrs_fastapi.mediation.kernel import Guard, Kernel
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.received_message import receiving
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError, hold
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

log = structlog.get_logger("cqrs_fastapi")

LONGEST_PAUSE = 10.0
AlsoWrite = Callable[[Connection], None]
"""More for the transaction in which a message is settled: the checkpoint of its reader, under the reader's lease."""


class PlaceLostError(CqrsError):
    """Somebody else reads on from here: the present transaction must leave nothing, and the reader stops."""

    code = "place_lost"


class Settlement(Enum):
    """What became of a message that was given to a handler."""

    NOW = "settled now"
    BEFORE = "settled before"
    """By an earlier attempt, whoever made it; nothing was written now."""
    STOPPED = "not settled"
    """It was time to stop before that."""


async def wait_for(stop: asyncio.Event, seconds: float) -> None:
    """A pause that ends early when it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


@dataclass(frozen=True, slots=True)
class Handlings:
    """The inbox at work. `personal` is None where nothing is encrypted."""

    kernel: Kernel
    database: Database
    settings: Settings
    personal: PersonalEvents | None = None

    async def settle(
        self,
        handling: Handling,
        envelope: Envelope,
        message: IncomingMessage,
        stop: asyncio.Event,
        also: AlsoWrite | None = None,
    ) -> Settlement:
        """STOPPED if `stop` was set between two attempts. `also` is written with the inbox row, done or parked.

        A handler's own error is tried again with growing pauses up to `handler_attempts` times, in place, so that
        order is kept; then the message is parked. A database that is away is waited for without counting. Raises
        PlaceLostError if `also` does, and ForgottenMeanwhileError if the message must be opened again, since somebody
        whose data it holds was forgotten.
        """
        attempts = 0
        while True:
            try:
                with receiving(received(message, attempts + 1)):
                    await self._attempt(handling, envelope, also)
            except AlreadySettledError:
                return Settlement.BEFORE
            except (PlaceLostError, ForgottenMeanwhileError):
                raise
            except (UnavailableError, UnknownOutcomeError) as error:
                # Nothing was written, or it is unknown: the claim of the next attempt finds out.
                await self._pause(attempts + 1, handling, repr(error), stop)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure, kept with the message
                attempts += 1
                if attempts >= self.settings.handler_attempts:
                    reason = Reason.of(error, tells=not envelope.key_ids)
                    letter = self._letter(handling.consumer, message, reason, attempts, envelope.metadata.message_id)
                    return await self._keep(letter, stop, also)
                told = type(error).__name__ if envelope.key_ids else repr(error)
                await self._pause(attempts, handling, told, stop)
            else:
                return Settlement.NOW
            if stop.is_set():
                return Settlement.STOPPED

    async def take_in(self, handling: Handling, envelope: Envelope) -> None:
        """One attempt for an event that came from elsewhere; the error is the caller's."""
        try:
            with receiving(handed_in(envelope.metadata)):
                await self._attempt(handling, envelope, None)
        except AlreadySettledError:
            return

    async def park(
        self,
        consumer: str,
        message: IncomingMessage,
        reason: Reason,
        stop: asyncio.Event,
        also: AlsoWrite | None = None,
    ) -> Settlement:
        """Keep a message that nobody could be given as a dead letter and settle it, in one transaction.

        STOPPED if `stop` was set while it waited for a database that is away.
        """
        return await self._keep(self._letter(consumer, message, reason, 0, message_id_of(message)), stop, also)

    async def _keep(self, letter: DeadLetter, stop: asyncio.Event, also: AlsoWrite | None) -> Settlement:
        log.error("message_parked", consumer=letter.consumer, topic=letter.topic, code=letter.code, error=letter.error)
        failures = 0
        while True:
            try:
                await self.database.write(lambda connection: self._park(connection, letter, also))
            except AlreadySettledError:
                return Settlement.BEFORE
            except (UnavailableError, UnknownOutcomeError):
                failures += 1
                await wait_for(stop, self.pause_after(failures))
            else:
                return Settlement.NOW
            if stop.is_set():
                return Settlement.STOPPED

    async def _attempt(self, handling: Handling, envelope: Envelope, also: AlsoWrite | None) -> None:
        guard = self._guard(handling, envelope, also)
        await self.kernel.pipelines.run(handling, envelope.event, envelope.metadata, guard)

    def _guard(self, handling: Handling, envelope: Envelope, also: AlsoWrite | None) -> Guard:
        tables, now, message_id = self.database.tables, self.kernel.clock.now(), envelope.metadata.message_id

        def write(connection: Connection) -> None:
            # The claim first: a repeated attempt must find what it has done before it finds what that has moved.
            claim(connection, tables, handling.consumer, message_id, status=DONE, now=now)
            if also is not None:
                also(connection)
            # What the handler wrote of these subjects must be there for whoever forgets them, or never be.
            hold(connection, tables, envelope.key_ids, retryable=False)

        async def guard(scope: Scope) -> None:
            scope.unit_of_work.join(write)

        return guard

    def _park(self, connection: Connection, letter: DeadLetter, also: AlsoWrite | None) -> None:
        tables = self.database.tables
        if letter.message_id is not None:
            claim(connection, tables, letter.consumer, letter.message_id, status=PARKED, now=letter.parked_at)
        if also is not None:
            also(connection)
        park(connection, tables, letter)

    def _letter(
        self, consumer: str, message: IncomingMessage, reason: Reason, attempts: int, message_id: UUID | None
    ) -> DeadLetter:
        return DeadLetter(
            id=self.kernel.ids(),
            consumer=consumer,
            message_id=message_id,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            key=message.key,
            headers=text_headers(message),
            payload=message.payload,
            code=reason.code,
            error=reason.error,
            traceback=reason.traceback,
            attempts=attempts,
            parked_at=self.kernel.clock.now(),
        )

    async def _pause(self, attempts: int, handling: Handling, error: str, stop: asyncio.Event) -> None:
        log.warning("handler_failed", consumer=handling.consumer, attempt=attempts, error=error)
        await wait_for(stop, self.pause_after(attempts))

    def pause_after(self, attempts: int) -> float:
        """Seconds, growing with the attempts that have failed."""
        longest = self.settings.retry_backoff.total_seconds() * float(2 ** min(attempts - 1, 10))
        return min(LONGEST_PAUSE, longest) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
