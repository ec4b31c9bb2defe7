"""The durable handlers of a service on its own store. One process at a time runs them, by a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.eventstore.subscription import SharedHorizon
from cqrs_fastapi.inbox.handling import Handlings, PlaceLostError, wait_for
from cqrs_fastapi.inbox.lag import Lag, read_lag
from cqrs_fastapi.inbox.starts import Starts
from cqrs_fastapi.inbox.subscriber import Subscriber
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.storage import leases
from cqrs_fastapi.storage.leases import Lease, LeaseLostError

log = structlog.get_logger("cqrs_fastapi")

LEASE = timedelta(seconds=3)
_RENEWED_EVERY = LEASE.total_seconds() / 3
REPORTED_EVERY = 5.0
"""Seconds. Finding out takes more statements than all else that is done while nothing happens."""


@dataclass(slots=True)
class Subscriptions:
    """Handlers run at once, each in the order of positions. `report` is told every five seconds how far they are;
    `held` has those that wait at an event which this code cannot read, and what each waits for.
    """

    handlings: Handlings
    registry: EventRegistry
    shared: SharedHorizon
    starts: Starts
    owner: UUID
    report: Callable[[Lag], None]
    name: str = "subscriptions"
    held: dict[str, str] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; events in the works are finished, and the next process may begin at once."""
        if not self.starts.readers:
            await stop.wait()
        while not stop.is_set():
            lease, was_abandoned = await self._acquire()
            if lease is None:
                await wait_for(stop, _RENEWED_EVERY)
            else:
                await self._own(lease, was_abandoned, stop)

    async def _acquire(self) -> tuple[Lease | None, bool]:
        """The lease, with all checkpoints in place; None while another process has it or the database is away. And
        whether its last holder never gave it back.
        """
        database, name = self.handlings.database, f"subscriptions:{self.handlings.settings.service}"

        def acquire(connection: Connection) -> tuple[Lease | None, bool]:
            was_abandoned = leases.is_abandoned(connection, database.tables, name)
            return leases.acquire(connection, database.tables, name, self.owner, LEASE), was_abandoned

        try:
            lease, was_abandoned = await database.write(acquire)
            if lease is not None:
                await self.starts.record_missing()
        except (UnavailableError, UnknownOutcomeError) as error:
            log.warning("database_unavailable", worker=self.name, error=str(error))
            return None, False
        return lease, was_abandoned

    async def _own(self, lease: Lease, was_abandoned: bool, stop: asyncio.Event) -> None:
        """Read until `stop` is set or the lease is lost. The first other error of a reader ends them all."""
        halt = asyncio.Event()
        subscribers = [
            Subscriber(self.handlings, self.registry, self.shared, one, lease, self.held, was_abandoned)
            for one in self.starts.readers
        ]
        working = [asyncio.ensure_future(one.run(halt)) for one in subscribers]
        working.append(asyncio.ensure_future(self._keep(lease, halt)))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({*working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            halt.set()
            await asyncio.wait(working)
        finally:
            halt.set()
            late = [task for task in (*working, stopping) if task.cancel()]
            if late:
                await asyncio.wait(late)
            errors = [error for task in working if not task.cancelled() and (error := task.exception()) is not None]
            await self._release(lease)
        for error in errors:
            if not isinstance(error, PlaceLostError | LeaseLostError):
                raise error
            log.warning("subscriptions_lost_their_place", error=str(error))

    async def _keep(self, lease: Lease, halt: asyncio.Event) -> None:
        """Hold the lease while the readers work; LeaseLostError if somebody else has it."""
        database, reported_at = self.handlings.database, -REPORTED_EVERY
        while not halt.is_set():
            await wait_for(halt, _RENEWED_EVERY)
            try:
                await database.write(lambda c: leases.renew(c, database.tables, lease))
                now = asyncio.get_running_loop().time()
                if now >= reported_at + REPORTED_EVERY:
                    reported_at = now
                    self.report(await database.read(partial(read_lag, tables=database.tables, consumers=self._names())))
            except (UnavailableError, UnknownOutcomeError) as error:
                log.warning("lease_not_renewed", lease=lease.name, error=str(error))

    async def _release(self, lease: Lease) -> None:
        try:
            await self.handlings.database.write(lambda c: leases.release(c, self.handlings.database.tables, lease))
        except (UnavailableError, UnknownOutcomeError) as error:
            log.warning("lease_not_released", lease=lease.name, error=str(error))

    def _names(self) -> list[str]:
        return [reader.consumer for reader in self.starts.readers]
