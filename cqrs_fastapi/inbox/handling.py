"""Gives one message to one durable handler until it is settled: done, or parked as a dead letter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.parking import DeadLetter, Reason, park
from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.claims import DONE, PARKED, AlreadySettledError, claim
from cqrs_fastapi.inbox.envelope import Envelope, message_id_of, text_headers
from cqrs_fastapi.mediation.kernel import Guard, Kernel
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

log = structlog.get_logger("cqrs_fastapi")

LONGEST_PAUSE = 10.0
AlsoWrite = Callable[[Connection, Handling, IncomingMessage], None]
"""More rows for the transaction of an effect: a projection's checkpoint."""


async def wait_for(stop: asyncio.Event, seconds: float) -> None:
    """A pause that ends early when it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


@dataclass(frozen=True, slots=True)
class Handlings:
    """The inbox at work. `also_write` runs in the transaction of each effect."""

    kernel: Kernel
    database: Database
    settings: Settings
    also_write: AlsoWrite

    async def settle(
        self, handling: Handling, envelope: Envelope, message: IncomingMessage, stop: asyncio.Event
    ) -> bool:
        """True when this handler has settled the message, False if `stop` was set between two attempts.

        A handler's own error is tried again with growing pauses up to `handler_attempts` times, in place, so that
        order is kept; then the message is parked. A database that is away is waited for without counting.
        """
        attempts = 0
        while True:
            try:
                await self._attempt(handling, envelope, message)
            except AlreadySettledError:
                return True
            except (UnavailableError, UnknownOutcomeError) as error:
                # Nothing was written, or it is unknown: the claim of the next attempt finds out.
                await self._pause(attempts + 1, handling, error, stop)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure, kept with the message
                attempts += 1
                if attempts >= self.settings.handler_attempts:
                    reason, message_id = Reason.of(error), envelope.metadata.message_id
                    return await self.park(
                        handling.consumer, message, reason, attempts=attempts, stop=stop, message_id=message_id
                    )
                await self._pause(attempts, handling, error, stop)
            else:
                return True
            if stop.is_set():
                return False

    async def take_in(self, handling: Handling, envelope: Envelope) -> None:
        """One attempt for an event that came from elsewhere; the error is the caller's."""
        try:
            await self._attempt(handling, envelope, None)
        except AlreadySettledError:
            return

    async def park(
        self,
        consumer: str,
        message: IncomingMessage,
        reason: Reason,
        *,
        attempts: int,
        stop: asyncio.Event,
        message_id: UUID | None = None,
    ) -> bool:
        """Keep the message as a dead letter and settle it, in one transaction; waits for a database that is away.

        False if `stop` was set while it waited.
        """
        message_id = message_id or message_id_of(message)
        letter = self._letter(consumer, message, reason, attempts, message_id)
        log.error("message_parked", consumer=consumer, topic=message.topic, code=reason.code, error=reason.error)
        failures = 0
        while True:
            try:
                await self.database.write(lambda connection: self._park(connection, letter))
            except AlreadySettledError:
                return True
            except (UnavailableError, UnknownOutcomeError):
                failures += 1
                await wait_for(stop, self._seconds(failures))
            else:
                return True
            if stop.is_set():
                return False

    async def _attempt(self, handling: Handling, envelope: Envelope, message: IncomingMessage | None) -> None:
        guard = self._guard(handling, envelope.metadata.message_id, message)
        await self.kernel.pipelines.run(handling, envelope.event, envelope.metadata, guard)

    def _guard(self, handling: Handling, message_id: UUID, message: IncomingMessage | None) -> Guard:
        tables, now = self.database.tables, self.kernel.clock.now()

        def write(connection: Connection) -> None:
            claim(connection, tables, handling.consumer, message_id, status=DONE, now=now)
            if message is not None:
                self.also_write(connection, handling, message)

        async def guard(scope: Scope) -> None:
            scope.unit_of_work.join(write)

        return guard

    def _park(self, connection: Connection, letter: DeadLetter) -> None:
        tables = self.database.tables
        if letter.message_id is not None:
            claim(connection, tables, letter.consumer, letter.message_id, status=PARKED, now=letter.parked_at)
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

    async def _pause(self, attempts: int, handling: Handling, error: BaseException, stop: asyncio.Event) -> None:
        log.warning("handler_failed", consumer=handling.consumer, attempt=attempts, error=repr(error))
        await wait_for(stop, self._seconds(attempts))

    def _seconds(self, attempts: int) -> float:
        longest = self.settings.retry_backoff.total_seconds() * float(2 ** min(attempts - 1, 10))
        return min(LONGEST_PAUSE, longest) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
