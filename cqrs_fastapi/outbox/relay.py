"""The relay: sends the outbox to the broker. A message is deleted only after the broker has acknowledged it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import Broker, Delivery, Outcome, Publisher
from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.outbox.parked_keys import ParkedKeys
from cqrs_fastapi.outbox.rows import Pending, next_batch, remove
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import leases
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.leases import Lease, LeaseLostError

log = structlog.get_logger("cqrs_fastapi")

LEASE = timedelta(seconds=3)
_LONGEST_PAUSE = 5.0
_FIRST_PAUSE = 0.05
_GRACE = 1.0


@dataclass(slots=True)
class Relay:
    """One relay works at a time, by a lease; another takes over when it stops or dies.

    Per key, messages are sent in the order of their commits. A message may be sent again when a relay dies between the
    broker's acknowledgement and the delete; the header `message-id` stays the same.
    """

    database: Database
    broker: Broker
    settings: Settings
    clock: Clock
    ids: IdFactory
    owner: UUID
    envelopes: Envelopes
    name: str = "relay"
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _lease: Lease | None = None
    _renewed_at: float = 0.0
    _failures: int = 0

    def wake(self) -> None:
        """Something was committed: look now instead of at the next poll."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set, then give the lease back so that another takes over at once."""
        publisher = await self._publisher(stop)
        if publisher is None:
            return
        try:
            while not stop.is_set():
                await self._step(publisher, stop)
        finally:
            await publisher.close()
            await self._release()

    async def _publisher(self, stop: asyncio.Event) -> Publisher | None:
        while not stop.is_set():
            try:
                return await self.broker.publisher()
            except UnavailableError as error:
                await self._failed(error, stop)
        return None

    async def _step(self, publisher: Publisher, stop: asyncio.Event) -> None:
        self._woken.clear()
        try:
            if not await self._hold():
                await self._sleep(LEASE.total_seconds() / 3, stop)
                return
            batch = await self._claim()
            outcomes = await self._publish(publisher, batch, stop) if batch else ()
            progress = await self._record(batch, outcomes)
        except (UnavailableError, UnknownOutcomeError) as error:
            await self._failed(error, stop)
            return
        except LeaseLostError as error:
            log.warning("relay_lost_its_lease", error=str(error))
            self._lease = None
            return
        await self._after(batch, outcomes, progress, stop)

    async def _after(
        self, batch: Sequence[Pending], outcomes: Sequence[Outcome], progress: bool, stop: asyncio.Event
    ) -> None:
        """Go on at once after progress, back off after a refusal to accept, else wait for work."""
        if batch and not progress:
            reason = next((outcome.reason for outcome in outcomes if outcome.delivery is Delivery.HELD), "")
            await self._failed(UnavailableError(reason or "nothing was acknowledged"), stop)
            return
        self._failures = 0
        if not batch:
            await self._wait(self.settings.relay_poll.total_seconds(), stop)

    async def _hold(self) -> bool:
        """Take or renew the lease; True while it is ours."""
        now = asyncio.get_running_loop().time()
        if self._lease is not None and now - self._renewed_at < LEASE.total_seconds() / 3:
            return True
        tables, lease = self.database.tables, self._lease
        if lease is None:
            name = f"relay:{self.settings.service}"
            self._lease = await self.database.write(lambda c: leases.acquire(c, tables, name, self.owner, LEASE))
        else:
            held = lease
            await self.database.write(lambda c: leases.renew(c, tables, held))
        self._renewed_at = now
        return self._lease is not None

    async def _claim(self) -> list[Pending]:
        """The oldest messages. Those behind a parked one are parked as well, so that their key stays in order."""
        tables = self.database.tables
        limit = self.settings.relay_batch
        parked, batch = await self.database.read(
            lambda c: (ParkedKeys.load(c, tables), next_batch(c, tables, self.envelopes, limit))
        )
        behind = [pending for pending in batch if parked.holds(pending)]
        if behind:
            reason = Outcome(Delivery.REFUSED, "an earlier message of this key is parked")
            await self._record(behind, [reason] * len(behind))
        return [pending for pending in batch if not parked.holds(pending)]

    async def _publish(self, publisher: Publisher, batch: Sequence[Pending], stop: asyncio.Event) -> Sequence[Outcome]:
        """Publish, keeping the lease alive meanwhile; what is not acknowledged soon after `stop` is left for later."""
        publishing = asyncio.ensure_future(publisher.publish([pending.message for pending in batch]))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not publishing.done():
                waiting = {publishing} if stopping.done() else {publishing, stopping}
                timeout = _GRACE if stopping.done() else LEASE.total_seconds() / 3
                done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not done and stopping.done():
                    return [Outcome(Delivery.HELD, "the relay is stopping")] * len(batch)
                await self._hold()
            return publishing.result()
        finally:
            stopping.cancel()
            if not publishing.done():
                publishing.cancel()
                await asyncio.wait({publishing})

    async def _record(self, batch: Sequence[Pending], outcomes: Sequence[Outcome]) -> bool:
        """Delete what was acknowledged and park what was refused, in one transaction fenced by the lease."""
        pairs = list(zip(batch, outcomes, strict=True))
        sent = [pending.position for pending, outcome in pairs if outcome.delivery is Delivery.ACKNOWLEDGED]
        refused = [(pending, outcome.reason) for pending, outcome in pairs if outcome.delivery is Delivery.REFUSED]
        lease = self._lease
        if lease is None or not (sent or refused):
            return False
        for pending, reason in refused:
            log.error("message_parked", consumer="relay", topic=pending.message.topic, error=reason)

        def write(connection: Connection) -> None:
            tables = self.database.tables
            leases.fenced(connection, tables, lease)
            for pending, reason in refused:
                ParkedKeys.park(connection, tables, pending, reason, letter_id=self.ids(), now=self.clock.now())
            remove(connection, tables, [*sent, *(pending.position for pending, _ in refused)])

        await self.database.write(write)
        return True

    async def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            await self.database.write(lambda c: leases.release(c, self.database.tables, lease))
        except (UnavailableError, UnknownOutcomeError) as error:
            log.warning("lease_not_released", lease=lease.name, error=str(error))

    async def _failed(self, error: Exception, stop: asyncio.Event) -> None:
        """Transient trouble is retried for ever, with growing random pauses."""
        self._failures += 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * float(2 ** min(self._failures, 12)))
        log.warning("relay_waits", attempt=self._failures, error=str(error))
        await self._sleep(pause * random.uniform(0.5, 1.0), stop)  # noqa: S311  # jitter, not a secret

    async def _wait(self, seconds: float, stop: asyncio.Event) -> None:
        """Until woken, stopped, or the time is over."""
        woken, stopping = asyncio.ensure_future(self._woken.wait()), asyncio.ensure_future(stop.wait())
        await asyncio.wait({woken, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        stopping.cancel()

    async def _sleep(self, seconds: float, stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return
