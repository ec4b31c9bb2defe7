"""Gives a letter to its handlers again: the effect, the inbox row and the end of the letter are one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.changing import LetterTakenError, fail, remove, take_up
from cqrs_fastapi.dead_letters.parking import Letter, Reason
from cqrs_fastapi.dead_letters.reading import head
from cqrs_fastapi.errors import CqrsError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.attempts import HandlerCrashedError
from cqrs_fastapi.inbox.cases import Case, name_of_key
from cqrs_fastapi.inbox.claims import (
    DISCARDED,
    DONE,
    PARKED,
    AlreadySettledError,
    claim,
    claim_parked,
    settled,
    status_of,
    turn_parked,
)
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.revealing import reveal_message
from cqrs_fastapi.inbox.transport import received
from cqrs_fastapi.inbox.verdicts import Again, Drop, Judge, Park
from cqrs_fastapi.mediation.failure_policy import FailurePolicy
from cqrs_fastapi.mediation.kernel import Guard
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.mediation.steering import RetryLater
from cqrs_fastapi.messages.received_message import receiving
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError, hold
from cqrs_fastapi.personal_data.tokens import PREFIX

log = structlog.get_logger("cqrs_fastapi")

Replay = Callable[[Letter], Awaitable[None]]
"""One attempt, whose transaction takes the letter away; its error is the caller's."""

_SLACK = timedelta(seconds=30)
_OPENED_AGAIN, _PAUSE_WHILE_FORGETTING = 5, 0.05


class NoHandlerError(CqrsError):
    """Nobody here reacts to the letter's message any more."""

    code = "no_handler"


class ReplayFailedError(CqrsError):
    """The handler has failed with the letter again, which stays, with the new error. The cause is that error."""

    code = "replay_failed"

    def __init__(self, letter: Letter, reason: Reason) -> None:
        self.letter_id, self.reason = letter.id, reason
        super().__init__(
            f"{letter.consumer} failed with dead letter {letter.id} again: {reason.code}: {reason.error}; the letter "
            "stays where it is"
        )


@dataclass(frozen=True, slots=True)
class Replaying:
    """Replays letters of handlers and of groups, and by `others` those of the consumers that it names. Those of the
    relay go back to the outbox, see `dead_letters`.
    """

    handlings: Handlings
    registry: EventRegistry
    others: Mapping[str, Replay] = field(default_factory=dict)

    @property
    def patience(self) -> timedelta:
        """For how long a replay that was begun may be under way."""
        return self.handlings.settings.command_timeout + _SLACK

    async def replay(self, identifier: UUID, *, out_of_order: bool = False, by_itself: bool = False) -> None:
        """One attempt, counted before it begins. ReplayFailedError if it fails: then the letter stays.

        NotFirstError unless the letter is the first of its key, or the order is not to be kept. LetterTakenError while
        somebody else replays it. `by_itself`: nobody waits for the outcome, and the handler's policy says what a
        failure leads to.
        """
        work = partial(
            take_up,
            tables=self.handlings.database.tables,
            identifier=identifier,
            patience=self.patience,
            out_of_order=out_of_order,
        )
        letter = await self.handlings.database.write(work)
        try:
            if by_itself:
                self._require_alive(letter)
            await self.others.get(letter.consumer, self._give)(letter)
        except (UnknownOutcomeError, LetterTakenError):
            raise  # whether it is still there, the next one finds out
        except Exception as error:
            await self._failed(letter, error, by_itself=by_itself)
            raise ReplayFailedError(letter, _reason(letter, error)) from error

    async def replay_key(self, consumer: str, sequence: str, *, stop: asyncio.Event | None = None) -> int:
        """Replay the letters of a closed key in their order until none is left, which opens the key; how many there
        were. The first failure ends it. New messages of the key go on parking behind, and are replayed as well. With
        `stop` nobody waits for it: it ends when that is set, and at a letter that is not due.
        """
        database, done = self.handlings.database, 0
        while stop is None or not stop.is_set():
            first = await database.read(partial(head, tables=database.tables, consumer=consumer, sequence=sequence))
            if first is None or (stop is not None and first.retry_at is None):
                break
            await self.replay(first.id, by_itself=stop is not None)
            done += 1
        return done

    async def _give(self, letter: Letter) -> None:
        """Anew, if somebody was forgotten or something of it was settled meanwhile."""
        for left in reversed(range(_OPENED_AGAIN)):
            envelopes = await self._open(letter)
            try:
                await self._give_all(letter, envelopes)
            except (ForgottenMeanwhileError, AlreadySettledError):
                if not left:
                    raise
                await asyncio.sleep(_PAUSE_WHILE_FORGETTING)
            else:
                return

    async def _open(self, letter: Letter) -> list[Envelope]:
        limit = max(self.handlings.settings.max_message_bytes, len(letter.payload))
        handlings = self.handlings
        return await reveal_message(
            message_in(letter), self.registry, handlings.personal, handlings.envelopes, max_bytes=limit
        )

    async def _give_all(self, letter: Letter, envelopes: Sequence[Envelope]) -> None:
        """To each handler that is to have it; the last one's transaction takes the letter away."""
        cases = await self._cases(letter, envelopes)
        wanted = [case for case in cases if case.is_wanted()]
        for case in wanted[:-1]:
            await self._run(letter, case, is_last=False)
        if wanted:
            await self._run(letter, wanted[-1], is_last=True)
        else:
            await self.handlings.database.write(lambda connection: self._end(connection, letter, DONE))

    async def _cases(self, letter: Letter, envelopes: Sequence[Envelope]) -> list[Case]:
        """What is parked by this letter, and what nobody has settled yet of a message that could not be read."""
        kernel, database, message = self.handlings.kernel, self.handlings.database, message_in(letter)
        durable, is_of_group = kernel.pipelines.durable, letter.consumer == self.handlings.settings.service
        pairs = [
            (one, envelope)
            for envelope in envelopes
            for one in durable.get(type(envelope.event), ())
            if is_of_group or one.consumer == letter.consumer
        ]
        if envelopes and not pairs:
            raise NoHandlerError(
                f"nothing called {letter.consumer!r} reacts to {type(envelopes[0].event).__name__}; bind a handler of "
                "that name, or discard the letter"
            )
        done = await database.read(partial(self._settled, letter=letter, pairs=pairs)) if pairs else set()
        return [
            Case(one, envelope, message)
            for one, envelope in pairs
            if (one.consumer, envelope.metadata.message_id) not in done
        ]

    def _settled(
        self, connection: Connection, letter: Letter, pairs: Sequence[tuple[Handling, Envelope]]
    ) -> set[tuple[str, UUID]]:
        """Those of them that are; what this letter has parked is not, unless somebody has handled it meanwhile."""
        tables = self.handlings.database.tables
        ids = [envelope.metadata.message_id for _, envelope in pairs]
        found = settled(connection, tables, {one.consumer for one, _ in pairs}, ids)
        if letter.message_id is not None:
            status = status_of(connection, tables, letter.consumer, letter.message_id)
            if status == PARKED:
                found.discard((letter.consumer, letter.message_id))
        return found

    async def _run(self, letter: Letter, case: Case, *, is_last: bool) -> None:
        envelope = case.envelope
        guard = self._guard(letter, case, is_last=is_last)
        with receiving(received(case.message, letter.attempts)):
            await self.handlings.kernel.pipelines.run(case.handling, envelope.event, envelope.metadata, guard)

    def _guard(self, letter: Letter, case: Case, *, is_last: bool) -> Guard:
        tables, now = self.handlings.database.tables, self.handlings.kernel.clock.now()

        is_own = letter.consumer == case.consumer and case.message_id == letter.message_id
        key = None if letter.consumer == case.consumer else name_of_key(case.key)

        def write(connection: Connection) -> None:
            if is_last:
                remove(connection, tables, letter)
            if is_own:
                claim_parked(connection, tables, case.consumer, case.message_id, now=now)
            else:
                claim(connection, tables, case.consumer, case.message_id, status=DONE, now=now, key=key)
                if is_last:
                    self._settle_own(connection, letter, DONE)
            hold(connection, tables, case.envelope.key_ids, retryable=False)

        async def guard(scope: Scope) -> None:
            scope.unit_of_work.join(write)

        return guard

    def _end(self, connection: Connection, letter: Letter, status: str) -> None:
        """The letter goes, and its inbox row says so. The key's row is locked first, then the inbox."""
        remove(connection, self.handlings.database.tables, letter)
        self._settle_own(connection, letter, status)

    def _settle_own(self, connection: Connection, letter: Letter, status: str) -> None:
        tables, now = self.handlings.database.tables, self.handlings.kernel.clock.now()
        if letter.message_id is not None:
            turn_parked(connection, tables, letter.consumer, letter.message_id, status=status, now=now)

    async def discard(self, letter: Letter) -> None:
        """Settle the message without an effect, and let what is behind it come to the front."""
        await self.handlings.database.write(lambda connection: self._end(connection, letter, DISCARDED))
        log.warning("dead_letter_discarded", consumer=letter.consumer, message_id=str(letter.message_id))

    def _require_alive(self, letter: Letter) -> None:
        """HandlerCrashedError if the last dispatch died, and so many were made."""
        if letter.dispatched_at is not None and letter.attempts > self._judge(letter).limit:
            raise HandlerCrashedError(letter.consumer, letter.attempts - 1)

    async def _failed(self, letter: Letter, error: Exception, *, by_itself: bool) -> None:
        verdict = self._judge(letter).verdict(error, counted=letter.attempts - 1, tries=letter.attempts)
        if isinstance(verdict, Drop):
            await self.discard(letter)
            return
        after = verdict.after if isinstance(verdict, Park) else timedelta(seconds=verdict.pause)
        if not by_itself and not isinstance(error, RetryLater):
            after = None  # whoever replays by hand decides when to do it again
        counts = not (isinstance(verdict, Again) and not verdict.counts)
        reason, tables = _reason(letter, error), self.handlings.database.tables
        log.warning("replay_failed", consumer=letter.consumer, code=reason.code, error=reason.error)
        try:
            await self.handlings.database.write(
                lambda connection: fail(connection, tables, letter, reason, after=after, counts=counts)
            )
        except (UnavailableError, UnknownOutcomeError) as away:
            log.warning("database_unavailable", consumer=letter.consumer, error=str(away))

    def _judge(self, letter: Letter) -> Judge:
        for all_of in self.handlings.kernel.pipelines.durable.values():
            for one in all_of:
                if one.consumer == letter.consumer:
                    return self.handlings.judge(one)
        return Judge(FailurePolicy(), self.handlings.settings)


def message_in(letter: Letter) -> IncomingMessage:
    """As it was received."""
    headers = {name: value.encode() for name, value in letter.headers.items()}
    sent_at = letter.sent_at or letter.parked_at
    return IncomingMessage(letter.topic, letter.partition, letter.offset, letter.key, letter.payload, headers, sent_at)


def _reason(letter: Letter, error: Exception) -> Reason:
    """Where the message holds personal data, what was said about it is left out."""
    return Reason.of(error, tells=PREFIX.encode() not in letter.payload)
