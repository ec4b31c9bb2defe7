"""The transactions that settle a message without its handler's effect: parked, parked behind another, or discarded.

Each locks the inbox row first and that of the key after it, as those that follow do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.dead_letters import parked_keys
from cqrs_fastapi.dead_letters.parking import UNTOLD, Letter, park
from cqrs_fastapi.errors import CqrsError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.attempts import forget
from cqrs_fastapi.inbox.cases import AlsoWrite, Case, name_of_key
from cqrs_fastapi.inbox.claims import DISCARDED, PARKED, AlreadySettledError, claim
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.tables import Tables

log = structlog.get_logger("cqrs_fastapi")


class Settlement(Enum):
    """What became of a message that was given to a handler."""

    NOW = "settled now"
    BEFORE = "settled before"
    """By an earlier attempt, whoever made it; nothing was written now."""
    PASSED = "passed over"
    """The binding's filter did not let it through. It counts as settled; nothing was written."""
    STOPPED = "not settled"
    """It was time to stop before that."""


async def wait_for(stop: asyncio.Event, seconds: float) -> None:
    """A pause that ends early when it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


class KeyOpenError(CqrsError):
    """The key was opened meanwhile: the present transaction must leave nothing, and the message is handled."""

    code = "key_open"


@dataclass(frozen=True, slots=True)
class Parking:
    """Does it, for as long as it takes: a database that is away is waited for."""

    database: Database
    clock: Clock
    pause_after: Callable[[int], float]

    async def keep(
        self,
        letter: Letter,
        stop: asyncio.Event,
        *,
        key: str | None,
        also: AlsoWrite | None,
        after: timedelta | None = None,
    ) -> Settlement:
        tables = self.database.tables
        kept = await self._write(lambda c: keep(c, tables, letter, key=key, also=also, after=after), stop)
        told = {"consumer": letter.consumer, "topic": letter.topic, "code": letter.code, "error": letter.error}
        if kept is Settlement.NOW and after is None:
            log.error("message_parked", **told)
        elif kept is Settlement.NOW and after is not None:
            log.warning("message_waits", seconds=after.total_seconds(), **told)
        return kept

    async def keep_behind(self, case: Case, letter: Letter) -> bool:
        """One try. False if the key has been opened meanwhile, so that the message is to be handled."""
        tables, key = self.database.tables, name_of_key(case.key) or ""
        try:
            await self.database.write(lambda c: keep_behind(c, tables, letter, key=key, also=case.also))
        except KeyOpenError:
            case.opens()
            return False
        log.info("message_parked_behind", consumer=case.consumer, key=key, message_id=str(case.message_id))
        return True

    async def discard(self, case: Case, reason: str, stop: asyncio.Event) -> Settlement:
        told = reason if not case.envelope.key_ids else UNTOLD
        log.warning("message_discarded", consumer=case.consumer, message_id=str(case.message_id), reason=told)
        tables, now = self.database.tables, self.clock.now()
        return await self._write(lambda connection: discard(connection, tables, case, now=now), stop)

    async def _write(self, work: Callable[[Connection], None], stop: asyncio.Event) -> Settlement:
        failures = 0
        while True:
            try:
                await self.database.write(work)
            except AlreadySettledError:
                return Settlement.BEFORE
            except (UnavailableError, UnknownOutcomeError):
                failures += 1
                await wait_for(stop, self.pause_after(failures))
            else:
                return Settlement.NOW
            if stop.is_set():
                return Settlement.STOPPED


def keep(
    connection: Connection,
    tables: Tables,
    letter: Letter,
    *,
    key: str | None,
    also: AlsoWrite | None = None,
    after: timedelta | None = None,
) -> None:
    """Park a message, and close its key behind it. With `after` it is to be tried again by itself."""
    _claim(connection, tables, letter)
    if also is not None:
        also(connection)
    ordinal = 0
    if key is not None:
        reason, now = letter.code, letter.parked_at
        ordinal = parked_keys.close(connection, tables, letter.consumer, key, reason=reason, now=now)
    due = None if after is None or ordinal else letter.parked_at
    park(connection, tables, replace(letter, sequence=key, ordinal=ordinal, retry_at=due))
    if due is not None and after is not None:
        _set_due(connection, tables, letter, after)


def keep_behind(
    connection: Connection, tables: Tables, letter: Letter, *, key: str, also: AlsoWrite | None = None
) -> None:
    """Park a message behind those of its key that are parked already. KeyOpenError if there are none any more."""
    _claim(connection, tables, letter)
    if also is not None:
        also(connection)
    ordinal = parked_keys.place_behind(connection, tables, letter.consumer, key)
    if ordinal is None:
        raise KeyOpenError(f"{key!r} was opened for {letter.consumer} meanwhile")
    park(connection, tables, replace(letter, sequence=key, ordinal=ordinal))


def discard(connection: Connection, tables: Tables, case: Case, *, now: datetime) -> None:
    """Settle a message without an effect."""
    claim(connection, tables, case.consumer, case.message_id, status=DISCARDED, now=now)
    if case.also is not None:
        case.also(connection)
    forget(connection, tables, case.consumer, case.message_id)


def _claim(connection: Connection, tables: Tables, letter: Letter) -> None:
    if letter.message_id is not None:
        claim(connection, tables, letter.consumer, letter.message_id, status=PARKED, now=letter.parked_at)
        forget(connection, tables, letter.consumer, letter.message_id)


def _set_due(connection: Connection, tables: Tables, letter: Letter, after: timedelta) -> None:
    """By the clock of the database, as all due times are."""
    letters = tables.dead_letters
    due = {"retry_at": database_now(connection, after=after)}
    connection.execute(letters.update().where(letters.c.id == letter.id).values(due))
