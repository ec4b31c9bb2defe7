"""Gives one message to one durable handler until it is settled: done, parked as a letter, or discarded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import chain
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.parked_keys import parked_among
from cqrs_fastapi.dead_letters.parking import Letter, Reason
from cqrs_fastapi.errors import CqrsError, UnavailableError
from cqrs_fastapi.inbox import attempts
from cqrs_fastapi.inbox.attempts import Doubts, HandlerCrashedError
from cqrs_fastapi.inbox.cases import AlsoWrite, Case, letter_of, name_of_key, sequence_of
from cqrs_fastapi.inbox.claims import DONE, PARKED, AlreadySettledError, KeyClosedError, claim
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.settling import Parking, Settlement, wait_for
from cqrs_fastapi.inbox.transport import handed_in, received
from cqrs_fastapi.inbox.verdicts import Drop, Judge, Park
from cqrs_fastapi.mediation.failure_policy import FailurePolicy
from cqrs_fastapi.mediation.kernel import Guard, Kernel
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.messages.received_message import receiving
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError, hold
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

__all__ = ["AlsoWrite", "Handlings", "PlaceLostError", "Settlement", "wait_for"]

log = structlog.get_logger("cqrs_fastapi")

BEHIND = Reason("behind", "an earlier message of this key is parked; this one waits behind it")


class PlaceLostError(CqrsError):
    """Somebody else reads on from here: the present transaction must leave nothing, and the reader stops."""

    code = "place_lost"


@dataclass(slots=True)
class _Tries:
    """`made` in this process, of which so many `failed` by the handler's own error; `died` with a process before."""

    made: int = 0
    failed: int = 0
    died: int = 0

    @property
    def counted(self) -> int:
        return self.failed + self.died


@dataclass(frozen=True, slots=True)
class Handlings:
    """The inbox at work. `personal` is None where nothing is encrypted."""

    kernel: Kernel
    database: Database
    settings: Settings
    envelopes: Envelopes
    personal: PersonalEvents | None = None
    doubts: Doubts = field(default_factory=Doubts)

    def message_id_of(self, message: IncomingMessage) -> UUID | None:
        """The id that a message is known by; None if it says none that is valid."""
        return self.envelopes.message_id_of(message, max_bytes=self.settings.max_message_bytes)

    async def settle(  # noqa: PLR0917  # the first five are a message and where it goes
        self,
        handling: Handling,
        envelope: Envelope,
        message: IncomingMessage,
        stop: asyncio.Event,
        also: AlsoWrite | None = None,
        closed: set[bytes] | None = None,
    ) -> Settlement:
        """STOPPED if `stop` was set between two attempts. `also` is written with the inbox row, done or parked.

        What a failure leads to is said by the handler's `FailurePolicy`: it is tried again in place, so that order is
        kept, or parked, with its key closed behind it. A message whose key is closed is parked behind those before it.
        `closed` are the keys that were closed for the handler when the caller looked, and is kept up to date; without
        it this looks itself. Raises PlaceLostError if `also` does, and ForgottenMeanwhileError if the message must be
        opened again, since somebody whose data it holds was forgotten.
        """
        known = await self._closed(handling, message, stop) if closed is None else closed
        if known is None:
            return Settlement.STOPPED
        return await self._settle(Case(handling, envelope, message, also, known), stop)

    async def take_in(self, handling: Handling, envelope: Envelope) -> None:
        """One attempt for an event that came from elsewhere; the error is the caller's."""
        guard = self._guard(handling, envelope, None, key=None)
        try:
            with receiving(handed_in(envelope.metadata)):
                await self.kernel.pipelines.run(handling, envelope.event, envelope.metadata, guard)
        except AlreadySettledError:
            return

    async def park(  # noqa: PLR0917  # they are a message and where it goes
        self,
        consumer: str,
        message: IncomingMessage,
        reason: Reason,
        stop: asyncio.Event,
        also: AlsoWrite | None = None,
        closed: set[bytes] | None = None,
    ) -> Settlement:
        """Keep a message that nobody could be given as a dead letter and settle it, in one transaction.

        `consumer` is a handler, whose key is closed behind the message; or a group, whose message parks alone, since
        nobody knows whom it concerns. STOPPED if `stop` was set while it waited for a database that is away.
        """
        key = sequence_of(message) if self._is_ordered(consumer) else None
        letter = self._letter(consumer, message, reason, 0, self.message_id_of(message))
        settlement = await self._parking.keep(letter, stop, key=name_of_key(key), also=also)
        if key is not None and closed is not None and settlement is not Settlement.STOPPED:
            closed.add(key)
        return settlement

    @asynccontextmanager
    async def in_doubt(self, consumer: str, message_id: UUID, *, limit: int) -> AsyncIterator[int]:
        """A block for one dispatch of a message that a process may have died of: written down before it begins, so that
        if this process dies of it, its successor can tell, and alone if one that was written down has died. How many
        have; HandlerCrashedError instead of one more than the limit.
        """
        mine, now = (self.database.tables, consumer, message_id), self.kernel.clock.now()
        certain = self.doubts.is_certain(consumer, message_id)
        alone = certain or await self.database.read(lambda connection: attempts.written(connection, *mine)) > 0
        count = partial(attempts.count_dispatch, limit=limit, now=now, certain=certain)
        async with self.doubts.turn if alone else nullcontext():
            if (consumer, message_id) in self.doubts.owed:
                await self._take_back(consumer, message_id)
            died = await self.database.write(lambda connection: count(connection, *mine))
            try:
                yield died
            except Exception:
                self.doubts.owed.add((consumer, message_id))
                await self._take_back(consumer, message_id)
                raise
        self.doubts.settle(consumer, message_id)

    async def _take_back(self, consumer: str, message_id: UUID) -> None:
        tables = self.database.tables
        await self.database.write(lambda connection: attempts.take_back(connection, tables, consumer, message_id))
        self.doubts.owed.discard((consumer, message_id))

    def judge(self, handling: Handling) -> Judge:
        return Judge(handling.on_failure, self.settings)

    def pause_after(self, attempts: int) -> float:
        """Seconds, growing with the attempts that have failed."""
        return Judge(FailurePolicy(), self.settings).pause_after(attempts)

    async def _settle(self, case: Case, stop: asyncio.Event) -> Settlement:
        judge, tries = self.judge(case.handling), _Tries()
        while True:
            try:
                return await self._try(case, judge, tries)
            except AlreadySettledError as error:
                if error.status == PARKED:
                    case.closes()
                return Settlement.BEFORE
            except KeyClosedError:
                case.closes()
            except (PlaceLostError, ForgottenMeanwhileError):
                raise
            except Exception as error:  # noqa: BLE001  # whatever a handler raises is its failure, kept with the message
                verdict = judge.verdict(error, counted=tries.counted, tries=tries.made)
                if isinstance(verdict, Drop):
                    return await self._parking.discard(case, str(error), stop)
                if isinstance(verdict, Park):
                    counted = error.times if isinstance(error, HandlerCrashedError) else tries.counted + 1
                    return await self._give_up(case, error, verdict.after, counted, stop)
                tries.failed += verdict.counts
                await self._pause(case, tries.made, verdict.pause, error, stop)
            if stop.is_set():
                return Settlement.STOPPED

    async def _try(self, case: Case, judge: Judge, tries: _Tries) -> Settlement:
        tries.made += 1
        if not case.is_wanted():
            return Settlement.PASSED
        if case.is_behind:
            letter = self._letter(case.consumer, case.message, BEHIND, 0, case.message_id)
            if await self._parking.keep_behind(case, letter):
                return Settlement.NOW
        if self.doubts.has(case.consumer, case.message_id):
            await self._attempt_in_doubt(case, judge, tries)
        else:
            await self._attempt(case, tries)
        return Settlement.NOW

    async def _attempt(self, case: Case, tries: _Tries) -> None:
        guard = self._guard(case.handling, case.envelope, case.also, key=name_of_key(case.key))
        with receiving(received(case.message, tries.made + tries.died)):
            await self.kernel.pipelines.run(case.handling, case.envelope.event, case.envelope.metadata, guard)

    async def _attempt_in_doubt(self, case: Case, judge: Judge, tries: _Tries) -> None:
        async with self.in_doubt(case.consumer, case.message_id, limit=judge.limit) as tries.died:
            await self._attempt(case, tries)

    def _guard(self, handling: Handling, envelope: Envelope, also: AlsoWrite | None, *, key: str | None) -> Guard:
        tables, now, message_id = self.database.tables, self.kernel.clock.now(), envelope.metadata.message_id
        in_doubt = self.doubts.has(handling.consumer, message_id)

        def write(connection: Connection) -> None:
            # The claim first: a repeated attempt must find what it has done before it finds what that has moved.
            claim(connection, tables, handling.consumer, message_id, status=DONE, now=now, key=key)
            if also is not None:
                also(connection)
            if in_doubt:
                attempts.forget(connection, tables, handling.consumer, message_id)
            # What the handler wrote of these subjects must be there for whoever forgets them, or never be.
            hold(connection, tables, envelope.key_ids, retryable=False)

        async def guard(scope: Scope) -> None:
            scope.unit_of_work.join(write)

        return guard

    async def _give_up(
        self, case: Case, error: Exception, after: timedelta | None, counted: int, stop: asyncio.Event
    ) -> Settlement:
        reason = Reason.of(error, tells=not case.envelope.key_ids)
        letter = self._letter(case.consumer, case.message, reason, counted, case.message_id)
        settlement = await self._parking.keep(letter, stop, key=name_of_key(case.key), also=case.also, after=after)
        if settlement is not Settlement.STOPPED:
            case.closes()
        return settlement

    @property
    def _parking(self) -> Parking:
        return Parking(self.database, self.kernel.clock, self.pause_after)

    async def _closed(self, handling: Handling, message: IncomingMessage, stop: asyncio.Event) -> set[bytes] | None:
        """The message's key if it is closed for the handler; None if it was time to stop before that was known."""
        key, failures = sequence_of(message), 0
        if key is None or not handling.on_failure.ordered:
            return set()
        look = partial(parked_among, tables=self.database.tables, consumer=handling.consumer, keys=[key])
        while not stop.is_set():
            try:
                return await self.database.read(look)
            except UnavailableError:
                failures += 1
                await wait_for(stop, self.pause_after(failures))
        return None

    def _is_ordered(self, consumer: str) -> bool:
        """Whether it is a handler that order matters to."""
        bound = chain.from_iterable(self.kernel.pipelines.durable.values())
        return any(one.consumer == consumer and one.on_failure.ordered for one in bound)

    def _letter(
        self, consumer: str, message: IncomingMessage, reason: Reason, counted: int, message_id: UUID | None
    ) -> Letter:
        letter_id, now = self.kernel.ids(), self.kernel.clock.now()
        return letter_of(message, consumer, reason, id=letter_id, message_id=message_id, attempts=counted, now=now)

    async def _pause(self, case: Case, made: int, seconds: float, error: Exception, stop: asyncio.Event) -> None:
        told = type(error).__name__ if case.envelope.key_ids else repr(error)
        log.warning("handler_failed", consumer=case.consumer, attempt=made, error=told)
        await wait_for(stop, seconds)
