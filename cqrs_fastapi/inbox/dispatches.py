"""How far a consumer has taken up a partition: what a process leaves behind that dies in the midst of its work.

A row says that the messages up to an offset may be under way. It is written ahead, once for many of them, and taken
away when the partition is given up in order. Whoever finds one knows that nobody lived to do that: of what it covers,
each dispatch is counted (see `attempts`), so that a message that kills its process is found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement, Connection, delete, select

from cqrs_fastapi.brokers.broker import Place
from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

log = structlog.get_logger("cqrs_fastapi")

AHEAD = 1_000
"""Offsets that one row covers beyond what was asked for; as many may be in doubt after a crash."""
NOBODY = -1


class _TakenUp(NamedTuple):
    through: int
    doubted: int
    """The offset up to which a dead process may have been at work; NOBODY if there was none."""
    at: datetime


@dataclass(slots=True)
class Dispatches:
    """The partitions that this process has in hand, for one consumer."""

    database: Database
    clock: Clock
    consumer: str
    _taken_up: dict[Place, _TakenUp] = field(default_factory=dict)

    async def begin(self, place: Place, last: int) -> int:
        """Before any message up to this offset is given to a handler. The offset up to which messages are in doubt, or
        NOBODY.
        """
        known = self._taken_up.get(place)
        if known is None or last > known.through:
            known = await self.database.write(partial(self._write, place=place, last=last, known=known))
            self._taken_up[place] = known
        return known.doubted

    async def end(self, place: Place) -> None:
        """All that was begun has ended. What cannot be written down now costs the next one some doubts."""
        known = self._taken_up.pop(place, None)
        if known is None:
            return
        try:
            await self.database.write(partial(self._take_away, place=place, known=known))
        except (UnavailableError, UnknownOutcomeError) as error:
            log.warning("dispatches_not_ended", consumer=self.consumer, place=tuple(place), error=str(error))

    def leave(self, place: Place) -> None:
        """Something that was begun may be under way still."""
        self._taken_up.pop(place, None)

    def _write(self, connection: Connection, place: Place, last: int, known: _TakenUp | None) -> _TakenUp:
        table, now = self.database.tables.dispatches, self.clock.now()
        if known is None:
            left = connection.execute(select(table.c.through).where(self._is_of(place))).scalar_one_or_none()
            doubted = NOBODY if left is None else left
        else:
            doubted = known.doubted
        taken_up = _TakenUp(max(last, doubted) + AHEAD, doubted, now)
        row = {
            "consumer": self.consumer,
            "topic": place.topic,
            "partition": place.partition,
            "through": taken_up.through,
            "dispatched_at": now,
        }
        changed = {"through": taken_up.through, "dispatched_at": now}
        keys = [table.c.consumer, table.c.topic, table.c.partition]
        connection.execute(
            upsert(connection, table).values(row).on_conflict_do_update(index_elements=keys, set_=changed)
        )
        return taken_up

    def _take_away(self, connection: Connection, place: Place, known: _TakenUp) -> None:
        """Unless another process has taken up the partition meanwhile."""
        table = self.database.tables.dispatches
        mine = (table.c.through == known.through) & (table.c.dispatched_at == known.at)
        connection.execute(delete(table).where(self._is_of(place) & mine))

    def _is_of(self, place: Place) -> ColumnElement[bool]:
        tables: Tables = self.database.tables
        table = tables.dispatches
        return (
            (table.c.consumer == self.consumer)
            & (table.c.topic == place.topic)
            & (table.c.partition == place.partition)
        )
