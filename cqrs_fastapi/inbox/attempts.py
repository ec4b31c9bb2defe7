"""Counts the dispatches that nobody lived to tell of, so that a message that kills its process reaches its limit too.

Nothing is counted while all goes well. Whoever finds that a process has died in the middle of its work names what it
may have been working on, as `Doubts`; from there on each dispatch of such a message is written down before it begins
and taken back when its outcome is known, whatever it is. What stays is what died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, delete, select, update

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables


class HandlerCrashedError(CqrsError):
    """The process has died each time that it gave this message to the handler."""

    code = "handler_crashed"

    def __init__(self, consumer: str, times: int) -> None:
        self.times = times
        super().__init__(
            f"the process died {times} times while {consumer} handled this message; look for a crash, or "
            "for too little memory, before you replay it"
        )


@dataclass(slots=True)
class Doubts:
    """The (handler, message) pairs that a dead process may have been working on.

    One alone is `certain`. Of many, which are handled side by side at first, what was under way in a second death has
    been written down. Both are handled one at a time from then on, so that the one that kills is the one that counts.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    owed: set[tuple[str, UUID]] = field(default_factory=set)
    """Dispatches that nobody died of, and that could not be taken back yet, since the database was away."""
    _pairs: dict[tuple[str, UUID], bool] = field(default_factory=dict)

    def add(self, consumer: str, message_ids: Iterable[UUID], *, certain: bool = False) -> None:
        """Count the dispatches of these from now on, until they are settled."""
        self._pairs.update(((consumer, message_id), certain) for message_id in message_ids)

    def has(self, consumer: str, message_id: UUID) -> bool:
        return bool(self._pairs) and (consumer, message_id) in self._pairs

    def is_certain(self, consumer: str, message_id: UUID) -> bool:
        return self._pairs.get((consumer, message_id), False)

    def settle(self, consumer: str, message_id: UUID) -> None:
        self._pairs.pop((consumer, message_id), None)


def count_dispatch(
    connection: Connection,
    tables: Tables,
    consumer: str,
    message_id: UUID,
    *,
    limit: int,
    now: datetime,
    certain: bool = True,
) -> int:
    """Write down that a doubted message is given to the handler; how many of its dispatches before this one died.

    If it is `certain`, the one that made it doubtful is the first of them. HandlerCrashedError once they are as many as
    the `limit`, and two at least, but never before one was written down: that one may have died of something else.
    """
    attempts = tables.attempts
    known = written(connection, tables, consumer, message_id)
    if known >= max(limit, 2):
        raise HandlerCrashedError(consumer, known)
    died = known or int(certain)
    row = {"consumer": consumer, "message_id": message_id, "count": died + 1, "counted_at": now}
    statement = upsert(connection, attempts).values(row)
    again = {"count": died + 1, "counted_at": now}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[attempts.c.consumer, attempts.c.message_id], set_=again)
    )
    return died


def written(connection: Connection, tables: Tables, consumer: str, message_id: UUID) -> int:
    """How many of its dispatches were written down and have no outcome: they died, or one is under way."""
    attempts = tables.attempts
    mine = (attempts.c.consumer == consumer) & (attempts.c.message_id == message_id)
    count: int | None = connection.execute(select(attempts.c.count).where(mine)).scalar_one_or_none()
    return count or 0


def take_back(connection: Connection, tables: Tables, consumer: str, message_id: UUID) -> None:
    """The dispatch that was written down last has failed, and nobody died."""
    attempts = tables.attempts
    mine = (attempts.c.consumer == consumer) & (attempts.c.message_id == message_id)
    connection.execute(update(attempts).where(mine).values(count=attempts.c.count - 1))


def forget(connection: Connection, tables: Tables, consumer: str, message_id: UUID) -> None:
    """The message is settled, in this transaction."""
    attempts = tables.attempts
    connection.execute(delete(attempts).where(attempts.c.consumer == consumer, attempts.c.message_id == message_id))
