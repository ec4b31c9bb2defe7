"""Group commit: units of work that only append are written together, each with its own checks and its own outcome.

On SQLite the database's writer groups works of every kind. On PostgreSQL, of a group:
1. One call of the `append` function, which is a transaction. A conflict concerns its own member alone.
2. A member that needs a row which somebody else has locked is left out, and then waits for it by itself.
3. If the call fails as a whole (a deadlock, a payload that is no JSON), each member is appended by itself.
4. If its answer is lost, each member is appended by itself once more: it collides with its first attempt, whose message
   ids are unique, if that has been committed or ever will be. Only a unit without events and without an idempotency
   record has nothing to collide with: its outcome is told to be unknown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from cqrs_fastapi.errors import ConcurrencyError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.append_call import LEFT, Answer, answers_of, arguments_for, statement_for
from cqrs_fastapi.eventstore.records import AppendUnit
from cqrs_fastapi.eventstore.repeats import RepeatedError
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.driver_errors import is_lock_timeout
from cqrs_fastapi.storage.postgres import Calls
from cqrs_fastapi.storage.tables import Tables

FEW = 20
"""Rows of a unit that is written in the event loop's own thread, where the database is embedded."""
GROUP = 128
"""The most units in one statement."""
GROUP_ROWS = 1_000
"""A unit with more rows is written by itself."""
ALONE_AT_ONCE = 4
"""Units that are written by themselves at the same time: each holds a connection while it waits for its rows."""
SETTLING = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Seconds before each attempt to find out what became of a unit."""


@dataclass(slots=True)
class _Member:
    unit: AppendUnit
    rows: int
    done: asyncio.Future[Mapping[str, int]]

    def succeed(self, versions: Mapping[str, int]) -> None:
        if not self.done.done():  # whoever waited may have left
            self.done.set_result(versions)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def settle(self, answer: Answer) -> None:
        if answer.error is None:
            self.succeed(answer.versions)
        else:
            self.fail(answer.error)


class Appender:
    """Used in one event loop, that of the database's connections."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_grouping = database.dialect == "postgresql"
        self._statement = statement_for(database.tables)
        self._waiting: deque[_Member] = deque()
        self._is_writing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Semaphore(ALONE_AT_ONCE)

    async def append(self, unit: AppendUnit) -> Mapping[str, int]:
        """The new version of each stream, once the unit is durable.

        Raises ConcurrencyError, StreamClosedError, RepeatedError, UnavailableError (nothing was written) or
        UnknownOutcomeError. A caller that is cancelled while its unit waits takes it back; later it does not know.
        """
        rows = unit.rows
        if not self._is_grouping:
            write = self._database.write_few if rows <= FEW else self._database.write
            return await write(partial(_append, tables=self._database.tables, unit=unit))
        member = _Member(unit, rows, asyncio.get_running_loop().create_future())
        if unit.condition is not None or rows > GROUP_ROWS:
            self._start(self._append_alone(member))
        else:
            self._waiting.append(member)
            self._write_soon()
        return await member.done

    async def close(self) -> None:
        """Write what waits."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _write_soon(self) -> None:
        if self._waiting and not self._is_writing:
            self._is_writing = True
            self._start(self._write())

    async def _write(self) -> None:
        """One group after the other. Each takes half of those who append at the same time: while it is under way, the
        other half decide what comes next, and neither this process nor the database waits for the other.
        """
        last = 0
        try:
            async with self._database.calls() as calls:
                while group := self._take((last + len(self._waiting) + 1) // 2):
                    await self._append_group(group, calls)
                    last = len(group)
        finally:
            self._is_writing = False
            self._write_soon()  # what came while the connection was given back

    def _take(self, at_most: int) -> list[_Member]:
        """The first of those that wait, without those whose callers have left. A group has each key once: which of two
        attempts is the repetition is known only when the first has ended.
        """
        group: list[_Member] = []
        keys: set[object] = set()
        rows = 0
        while self._waiting and len(group) < min(at_most, GROUP) and rows < GROUP_ROWS:
            member = self._waiting[0]
            key = member.unit.record_key
            if key is not None and key in keys:
                break
            self._waiting.popleft()
            if not member.done.done():
                keys.add(key)
                group.append(member)
                rows += member.rows
        return group

    async def _append_group(self, group: Sequence[_Member], calls: Calls) -> None:
        units = [member.unit for member in group]
        try:
            row = await calls.call(self._statement, arguments_for(units, waits=False))
            answers = answers_of(units, row)
        except Exception as error:  # noqa: BLE001  # whatever it is, each member hears of it or tries by itself
            for member in group:
                self._go_on(member, error)
        else:
            for member, answer in zip(group, answers, strict=True):
                if answer.outcome == LEFT:
                    self._start(self._append_alone(member))
                else:
                    member.settle(answer)

    def _go_on(self, member: _Member, error: Exception) -> None:
        """After the failure of a whole group, which may be that of one member or of a lock that one of them needs."""
        if isinstance(error, UnknownOutcomeError):
            self._start(self._settle(member, error))
        elif isinstance(error, UnavailableError) and not is_lock_timeout(error):
            member.fail(error)
        else:
            self._start(self._append_alone(member))

    async def _append_alone(self, member: _Member) -> None:
        async with self._alone:
            try:
                versions = await self._append_once(member.unit)
            except UnknownOutcomeError as error:
                self._start(self._settle(member, error))
            except Exception as error:  # noqa: BLE001  # it is raised again where the caller waits
                member.fail(error)
            else:
                member.succeed(versions)

    async def _settle(self, member: _Member, unknown: UnknownOutcomeError) -> None:
        """Append the unit once more, until it is written or found to be, or until it cannot be any more."""
        for pause in SETTLING if member.unit.collides else ():
            await asyncio.sleep(pause)
            async with self._alone:
                try:
                    member.succeed(await self._append_or_find(member.unit))
                except (UnavailableError, UnknownOutcomeError):
                    continue
                except Exception as error:  # noqa: BLE001  # it is raised again where the caller waits
                    member.fail(error)
                return
        member.fail(unknown)

    async def _append_or_find(self, unit: AppendUnit) -> Mapping[str, int]:
        try:
            return await self._append_once(unit)
        except (ConcurrencyError, RepeatedError, IntegrityError):
            stored = await self._database.read(partial(_stored, tables=self._database.tables, unit=unit))
            if stored is None:
                raise
            return stored

    async def _append_once(self, unit: AppendUnit) -> Mapping[str, int]:
        return await self._database.write(partial(_append, tables=self._database.tables, unit=unit))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _append(connection: Connection, *, tables: Tables, unit: AppendUnit) -> Mapping[str, int]:
    return append(connection, tables, unit)


def _stored(connection: Connection, *, tables: Tables, unit: AppendUnit) -> Mapping[str, int] | None:
    """The versions of a unit whose own events are all there; None if they are not."""
    ids: list[UUID] = [event.message_id for one in unit.appends for event in one.events]
    if not ids:
        return None
    events = tables.events
    query = select(events.c.stream, func.max(events.c.version), func.count()).where(events.c.message_id.in_(ids))
    found = connection.execute(query.group_by(events.c.stream)).all()
    return {stream: version for stream, version, _ in found} if sum(row[2] for row in found) == len(ids) else None
