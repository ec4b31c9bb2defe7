"""The relay: sends the outbox to the broker. A message is deleted only after the broker has acknowledged it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog

from cqrs_fastapi.brokers.broker import Broker, Publisher
from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.outbox.asides import Asides
from cqrs_fastapi.outbox.buckets import SHARES, buckets_of, require_same_buckets
from cqrs_fastapi.outbox.claiming import Passed, claim
from cqrs_fastapi.outbox.holds import Holds, pause_after
from cqrs_fastapi.outbox.lane import LANES, Lane, Orders
from cqrs_fastapi.outbox.owner import require_relay
from cqrs_fastapi.outbox.pending import Backlog, backlog
from cqrs_fastapi.outbox.shares import Shares
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database

log = structlog.get_logger("cqrs_fastapi")

REPORTED_EVERY = 10.0
"""Seconds between two looks at how much waits, for metrics."""
POLL_WHEN_TOLD = 20.0
"""Seconds between two looks for work where every process tells of its commits."""
_LOOKED_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class Only:
    """What a relay was told for this run: topics (None: all) and messages at once (None: as the settings say)."""

    topics: tuple[str, ...] | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a relay is told of: `hears` whether this process hears of all commits, `report` takes how much waits, and
    `tell` wakes other relays.
    """

    hears: Callable[[], bool] = lambda: False
    report: Callable[[Backlog], None] = lambda _: None
    tell: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Relay:
    """Any number of relays work at once: each has its share of the buckets of keys, by leases.

    Per key, messages are sent in the order of their commits where their writers are serialised. A message may be sent
    again when a relay dies between the broker's acknowledgement and the delete; the header `message-id` stays the same.
    A relay that dies is replaced in about a second, one that is stopped at once.
    """

    database: Database
    broker: Broker
    settings: Settings
    clock: Clock
    ids: IdFactory
    owner: UUID
    envelopes: Envelopes
    name: str = "relay"
    only: Only = field(default_factory=Only)
    around: Surroundings = field(default_factory=Surroundings)
    _lanes: tuple[Lane, ...] = ()

    def wake(self) -> None:
        """Something was committed, or shares became free: look now instead of at the next poll."""
        for lane in self._lanes:
            lane.woken.set()

    def unknown_topics(self) -> list[str]:
        """Topics that the broker does not know, and that have not been given up yet."""
        return sorted({topic for lane in self._lanes for topic in lane.holds.unknown_since})

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set, then give every share back so that others take them at once.

        ConfigurationError if the outbox was written by code that spreads keys otherwise, or is Debezium's.
        """
        shares = Shares(self.database, self.settings.service, self.owner)
        if not await self._join(shares, stop):
            return
        self._lanes = tuple(self._lane(number, shares) for number in range(LANES))
        ended = asyncio.Event()
        working = [asyncio.ensure_future(self._work(lane, stop)) for lane in self._lanes]
        helping = [
            asyncio.ensure_future(self._keep(shares, stop, ended)),
            asyncio.ensure_future(self._tell_backlog(ended)),
        ]
        try:
            # Ends when all lanes have ended, or with the first error of anybody.
            await _first_error_or_all(working, helping)
        finally:
            ended.set()
            await _end([*working, *helping])
            await self._leave(shares)
            self._lanes = ()

    async def run_once(self) -> bool:
        """Send what is due, together with other relays if there are any; False if something could not be sent."""
        stop = asyncio.Event()
        running = asyncio.ensure_future(self.run(stop))
        try:
            while not running.done() and not await self._is_done():
                await asyncio.wait({running}, timeout=_LOOKED_EVERY)
            failed = sum(lane.failed for lane in self._lanes)
        finally:
            stop.set()
            await asyncio.wait({running})
        running.result()
        return failed == 0

    async def _is_done(self) -> bool:
        if any(lane.failed for lane in self._lanes):
            return all(lane.idle.is_set() or lane.failed for lane in self._lanes)
        if not self._lanes or not all(lane.idle.is_set() for lane in self._lanes):
            return False
        tables, passed = self.database.tables, Passed(wanted=self.only.topics)
        everywhere = buckets_of(range(SHARES))
        work = partial(claim, tables=tables, buckets=everywhere, at_most=1, passed=passed)
        return not await self.database.read(work)

    async def _join(self, shares: Shares, stop: asyncio.Event) -> bool:
        """Wait for the database; False if the relay was stopped meanwhile."""
        failures = 0
        while not stop.is_set():
            try:
                await self.database.read(partial(require_relay, tables=self.database.tables))
                await self.database.write(partial(require_same_buckets, tables=self.database.tables))
                await shares.join()
                await shares.beat()
            except (UnavailableError, UnknownOutcomeError) as error:
                failures += 1
                log.warning("relay_waits", attempt=failures, error=str(error))
                await _is_set_within(stop, pause_after(failures))
            else:
                return True
        return False

    def _lane(self, number: int, shares: Shares) -> Lane:
        loop = asyncio.get_running_loop()
        settings, only = self.settings, self.only
        batch = only.batch or settings.relay_batch
        orders = Orders(batch, only.topics, settings.topic_grace.total_seconds(), self._poll)
        asides = Asides(self.database, self.clock, self.ids, only.topics)
        return Lane(
            number, self.database, shares, orders, self.envelopes, self.clock, self.ids, Holds(loop.time), asides
        )

    def _poll(self) -> float:
        return POLL_WHEN_TOLD if self.around.hears() else self.settings.relay_poll.total_seconds()

    async def _work(self, lane: Lane, stop: asyncio.Event) -> None:
        publisher = await self._publisher(stop)
        if publisher is None:
            return
        try:
            await lane.run(publisher, stop)
        finally:
            await publisher.close()

    async def _publisher(self, stop: asyncio.Event) -> Publisher | None:
        failures = 0
        while not stop.is_set():
            try:
                return await self.broker.publisher()
            except UnavailableError as error:
                failures += 1
                log.warning("relay_waits", attempt=failures, error=str(error))
                await _is_set_within(stop, pause_after(failures))
        return None

    async def _keep(self, shares: Shares, stop: asyncio.Event, ended: asyncio.Event) -> None:
        """Renew what is held and watch the others, beat by beat."""
        while not await _is_set_within(ended, shares.pause):
            shares.takes = not stop.is_set()
            try:
                changed = await shares.beat()
            except (UnavailableError, UnknownOutcomeError) as error:
                log.warning("shares_not_renewed", error=str(error))
                continue
            if changed or shares.leaving:
                self.wake()

    async def _tell_backlog(self, ended: asyncio.Event) -> None:
        while not await _is_set_within(ended, REPORTED_EVERY):
            try:
                self.around.report(await self.database.read(partial(backlog, tables=self.database.tables)))
            except UnavailableError as error:
                log.warning("backlog_unknown", error=str(error))

    async def _leave(self, shares: Shares) -> None:
        try:
            await shares.leave()
        except (UnavailableError, UnknownOutcomeError) as error:
            log.warning("shares_not_given_back", error=str(error))
        else:
            self.around.tell()


async def _first_error_or_all(working: Sequence[asyncio.Future[None]], helping: Sequence[asyncio.Future[None]]) -> None:
    left = set(working)
    while left:
        done, _ = await asyncio.wait({*left, *helping}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        left -= done


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    left = [task for task in tasks if task.cancel()]
    if left:
        await asyncio.wait(left)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
