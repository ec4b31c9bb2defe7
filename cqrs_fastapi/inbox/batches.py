"""Many messages of one handler in one transaction, for handlers that do nothing outside of it.

The handler runs for each message, in a scope and a unit of work of its own, in one session; then the rows of the inbox
are written, and the transaction is committed.

The first run has no savepoints, which cost as much as a small handler. If a handler fails in it, all is undone and run
again with a savepoint for each message: then the failure costs its own message and what follows it in its key. What is
left over, and everything if it fails elsewhere, is left to be settled one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.cases import Case
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.joint_claims import claim_all
from cqrs_fastapi.inbox.pieces import EventPiece
from cqrs_fastapi.inbox.transport import received
from cqrs_fastapi.mediation.scope import Scope, UnitOfWorkPort
from cqrs_fastapi.messages.received_message import receiving
from cqrs_fastapi.personal_data.subject_keys import hold
from cqrs_fastapi.storage.driver_errors import commit

log = structlog.get_logger("cqrs_fastapi")


class _HandlerFailedError(Exception):
    """In a run without savepoints."""


class _TransactionEndedError(Exception):
    """By a handler, though it is not its own."""


@dataclass(frozen=True, slots=True)
class Batches:
    """`begin` gives a unit of work in a session; `committed` is told when what was recorded in one can be seen."""

    handlings: Handlings
    begin: Callable[[Scope, AsyncSession], UnitOfWorkPort]
    committed: Callable[[], None]

    async def settle(self, pieces: Sequence[EventPiece], stop: asyncio.Event) -> Collection[EventPiece]:
        """Those that are settled now, with their effects, all in one transaction. Never raises for a message."""
        allowed = [piece for piece in pieces if not piece.case.is_behind]
        try:
            return await self._run(allowed, stop) if allowed else ()
        except (UnavailableError, UnknownOutcomeError) as error:
            log.warning("batch_not_settled", consumer=pieces[0].consumer, error=str(error))
        except _TransactionEndedError as error:
            log.error("batch_not_settled", consumer=pieces[0].consumer, error=str(error))
        except Exception as error:  # noqa: BLE001  # whatever a flush or the commit raises: one by one it finds its message
            log.warning("batch_not_settled", consumer=pieces[0].consumer, error=type(error).__name__)
        return ()

    async def _run(self, pieces: Sequence[EventPiece], stop: asyncio.Event) -> Sequence[EventPiece]:
        own = self.handlings.kernel.own
        try:
            return await own(self._transaction(pieces, stop, with_savepoints=False))
        except _HandlerFailedError as error:
            log.info("batch_run_again", consumer=pieces[0].consumer, error=type(error.__cause__).__name__)
            return await own(self._transaction(pieces, stop, with_savepoints=True))

    async def _transaction(
        self, pieces: Sequence[EventPiece], stop: asyncio.Event, *, with_savepoints: bool
    ) -> Sequence[EventPiece]:
        """It belongs to a task of the kernel's: whoever waits for it may leave."""
        session = self.handlings.database.session()
        done, passed = list[EventPiece](), list[EventPiece]()
        failed: set[bytes | None] = set()
        await session.begin()  # so that it can be seen whether a handler ends it
        try:
            for piece in pieces:
                if stop.is_set():
                    break
                key = piece.message.key
                if key is not None and key in failed:
                    continue
                wanted = _is_wanted(piece.case)
                if wanted is False:
                    passed.append(piece)
                elif wanted and await self._handle(session, piece, with_savepoint=with_savepoints):
                    done.append(piece)
                else:
                    failed.add(key)
            if done:
                await commit(session, partial(self._settle, pieces=done))
                self.committed()
        finally:
            await session.close()
        return [*done, *passed]

    async def _handle(self, session: AsyncSession, piece: EventPiece, *, with_savepoint: bool) -> bool:
        """Whether the handler has ended well. It runs in a context of its own, as every message does."""
        transaction = session.sync_session.get_transaction()
        try:
            async with session.begin_nested() if with_savepoint else nullcontext():
                loop = asyncio.get_running_loop()
                await loop.create_task(self._give(session, piece), context=copy_context())
        except UnavailableError:
            raise
        except Exception as error:
            if not with_savepoint:
                raise _HandlerFailedError from error
            told = type(error).__name__ if piece.envelope.key_ids else repr(error)
            log.warning("handler_failed", consumer=piece.consumer, attempt=1, error=told)
            return False
        if session.sync_session.get_transaction() is not transaction:
            raise _TransactionEndedError(
                f"{piece.consumer} has ended the transaction of its session, whose effects are not undone if another "
                "message fails: leave the end to the unit of work, or bind the handler without effects='database'"
            )
        # What the next handler loads must be what the database holds, and not what this one has loaded.
        session.expunge_all()
        return True

    async def _give(self, session: AsyncSession, piece: EventPiece) -> None:
        envelope = piece.envelope
        with receiving(received(piece.message, 1)):
            await self.handlings.kernel.pipelines.run_within(
                piece.handling, envelope.event, envelope.metadata, lambda scope: self.begin(scope, session)
            )

    def _settle(self, connection: Connection, pieces: Sequence[EventPiece]) -> None:
        tables, consumer = self.handlings.database.tables, pieces[0].consumer
        claims = [(piece.case.message_id, piece.case.key) for piece in pieces]
        claim_all(connection, tables, consumer, claims, now=self.handlings.kernel.clock.now())
        key_ids = frozenset[UUID]().union(*(piece.envelope.key_ids for piece in pieces))
        hold(connection, tables, key_ids, retryable=False)


def _is_wanted(case: Case) -> bool | None:
    """None if its filter or validator fails, which is then found again, and judged, when it is settled alone."""
    try:
        return case.is_wanted()
    except Exception:  # noqa: BLE001  # whatever they raise
        return None
