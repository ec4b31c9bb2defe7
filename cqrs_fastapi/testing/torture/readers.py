"""The reader of this library, used as a projection uses it: each page together with the checkpoint, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Protocol
from uuid import UUID

from sqlalchemy import Connection, func, select

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import HistoryChangedError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.eventstore.checkpoints import (
    Checkpoint,
    CheckpointMovedError,
    advance,
    read_checkpoint,
    start,
    verify,
)
from cqrs_fastapi.eventstore.horizon import Horizon, read_horizon
from cqrs_fastapi.eventstore.subscription import (
    Batch,
    HistoryMovedError,
    Selection,
    SharedHorizon,
    Subscription,
    place_of,
)
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import Tables
from cqrs_fastapi.testing.torture.field import DRIVER_ERRORS
from cqrs_fastapi.testing.torture.ledger import Ledger

_NAME = "torture"
_POLL = timedelta(milliseconds=20)
_AWAY = 0.01
_LIFE = 200
"""Pages after which the reader forgets all that it knows, and goes on from its checkpoint as a new process would."""


class Reader(Protocol):
    """Gives what it finds to the ledger."""

    async def open(self) -> None:
        """Before anything is written."""
        ...

    async def run(self) -> None:
        """Until it is cancelled."""
        ...

    async def is_done(self) -> bool:
        """Whether it has read all that there is, when nothing is written any more."""
        ...


class FloorReader:
    def __init__(self, database: Database, ledger: Ledger, clock: Clock) -> None:
        self._database, self._ledger, self._clock = database, ledger, clock
        self._shared = SharedHorizon(database, _POLL)
        self._through = 0
        self._pending: dict[int, Batch] = {}
        """Pages whose commit got no answer, by where the checkpoint is if it was made."""

    async def open(self) -> None:
        tables, now = self._database.tables, self._clock.now()

        def work(connection: Connection) -> None:
            start(connection, tables, _NAME, Horizon(0, 0), from_start=True, now=now)

        await self._database.write(work)

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except (UnavailableError, UnknownOutcomeError, HistoryMovedError, CheckpointMovedError):
                await asyncio.sleep(_AWAY)
            except HistoryChangedError as error:
                self._ledger.outcomes[f"{type(error).__name__} of the reader"] += 1
                return  # as a reader does: what it has not delivered is judged as lost
            except DRIVER_ERRORS as error:
                self._ledger.outcomes[f"{type(error).__name__} of the reader"] += 1
                await asyncio.sleep(_AWAY)

    async def is_done(self) -> bool:
        return self._through >= await self._database.read(partial(last_position, tables=self._database.tables))

    async def _follow(self) -> None:
        """From the stored checkpoint on."""
        horizon = await self._shared.fresh()  # before the other look, which may be ahead of what is shared
        place, server = await self._database.read(partial(_verified, tables=self._database.tables))
        if server != horizon.server:
            raise HistoryMovedError
        if (settled := self._pending.get(place.position)) is not None:
            self._deliver(settled)
        self._through = place.position
        subscription = Subscription(self._database, self._shared, Selection(), place_of(place, horizon))
        for _ in range(_LIFE):
            batch = await subscription.next()
            if batch.through > place.position:
                place = await self._take(place, batch)

    async def _take(self, before: Checkpoint, batch: Batch) -> Checkpoint:
        last = batch.events[-1].stored.message_id if batch.events else before.message_id
        after = Checkpoint(_NAME, batch.through, last, batch.highest)
        self._pending[after.position] = batch
        move = partial(advance, tables=self._database.tables, before=before, after=after, now=self._clock.now())
        await self._database.write(move)
        self._deliver(batch)
        self._through = after.position
        return after

    def _deliver(self, batch: Batch) -> None:
        """It is committed, so that nothing else that was tried from the same place can be."""
        self._pending.clear()
        rows = [(one.stored.message_id, one.stored.stream, one.stored.version) for one in batch.events]
        deliver_all(self._ledger, rows)


def deliver_all(ledger: Ledger, rows: Sequence[tuple[UUID, str, int]]) -> None:
    """In this order, all at the same time."""
    now = asyncio.get_running_loop().time()
    for message_id, stream, version in rows:
        ledger.deliver(message_id, stream, version, now)


def last_position(connection: Connection, tables: Tables) -> int:
    return int(connection.execute(select(func.coalesce(func.max(tables.events.c.position), 0))).scalar_one())


def _verified(connection: Connection, tables: Tables) -> tuple[Checkpoint, str]:
    place = read_checkpoint(connection, tables, _NAME)
    if place is None:
        raise AssertionError("the checkpoint of the torture is gone; nobody else may write to its tables")
    horizon = read_horizon(connection, tables)
    verify(connection, tables, place, horizon)
    return place, horizon.server
