"""One of a relay's two hands: claim, send, take away. While one waits for the broker, the other works at the database.

Each has shares of its own, so that a key is always in the same hand. What is under way in a share ends before the share
is given back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import Connection, update

from cqrs_fastapi.brokers.broker import Publisher
from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.outbox.asides import Asides
from cqrs_fastapi.outbox.buckets import buckets_of, share_of
from cqrs_fastapi.outbox.claiming import Passed, claim, settle
from cqrs_fastapi.outbox.holds import Holds, pause_after
from cqrs_fastapi.outbox.parked_keys import park_refused
from cqrs_fastapi.outbox.pending import Pending
from cqrs_fastapi.outbox.sending import Sent, publish, told_apart
from cqrs_fastapi.outbox.shares import Shares
from cqrs_fastapi.outbox.sweeping import look, sweep
from cqrs_fastapi.storage import leases
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.leases import Lease, LeaseLostError

log = structlog.get_logger("cqrs_fastapi")

LANES = 2
SWEPT_EVERY = 1.0
"""Seconds between two looks at what is in the way, unless something was just parked."""
SWEPT_WHEN_QUIET = 30.0
"""The same while nothing comes."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a relay was told: how much at once, which topics (None: all), how long a topic may be unknown, how long to
    wait for work.
    """

    batch: int
    topics: tuple[str, ...] | None
    grace: float
    poll: Callable[[], float]


@dataclass(slots=True)
class Lane:
    """`failed` counts messages that could not be sent, `idle` is set while nothing is due."""

    number: int
    database: Database
    shares: Shares
    orders: Orders
    envelopes: Envelopes
    clock: Clock
    ids: IdFactory
    holds: Holds
    asides: Asides
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    failed: int = 0
    _turn: int = 0
    _failures: int = 0
    _swept_at: float = float("-inf")
    _is_swept: bool = False
    """Whether nothing can have come into the way since the last look."""
    _next_due: float | None = None

    async def run(self, publisher: Publisher, stop: asyncio.Event) -> None:
        """Until `stop` is set; then what is held is given back."""
        while not stop.is_set():
            self.woken.clear()
            try:
                pause = await self._step(publisher, stop)
                self._failures = 0
            except LeaseLostError as error:
                log.warning("relay_lost_a_share", error=str(error))
                pause = 0.0
            except (UnavailableError, UnknownOutcomeError) as error:
                pause = await self._backed_off(error, stop)
            if pause > 0 and await self._wait(pause, stop):
                self._is_swept = False
        with suppress(UnavailableError, UnknownOutcomeError):  # the relay tries, and tells
            await self._give_back(self._mine(self.shares.held))

    async def _step(self, publisher: Publisher, stop: asyncio.Event) -> float:
        """One batch. Returns how long to wait for the next, at most."""
        await self._give_back(self._mine(self.shares.leaving))
        shares = self._mine(self.shares.usable())
        if not shares:
            return self.shares.pause
        await self.asides.learn(shares)
        buckets = self._in_turn(buckets_of(shares))
        # Before the claim: what was read under a lease that is lost meanwhile may be another's by now.
        held = self.shares.leases_of(buckets)
        batch = [] if self.holds.is_full else await self._claim(buckets)
        if not batch and not self.holds.is_full:
            batch = await self.asides.claim(held, self.holds, self.orders.batch)
        if batch:
            self.idle.clear()
            await self._send(publisher, batch, held, stop)
            self._is_swept = False
            if self._is_time():
                await self._sweep(buckets)
            return 0.0
        if self._is_time() and await self._sweep(buckets):
            return 0.0
        self.idle.set()
        return self._pause()

    async def _claim(self, buckets: Sequence[int]) -> list[Pending]:
        passed, limit = self._passed(), self.orders.batch
        work = partial(claim, tables=self.database.tables, buckets=buckets, at_most=limit, passed=passed)
        batch = await self.database.read(work)
        if self.holds and len(batch) < limit:
            # All that may be sent is here; what was passed over is what this claim was told to, whatever the time is.
            names = {one.name for one in batch}.union(self.asides.names, passed.held)
            self.holds.forget_but(names, {name.partition("/")[0] for name in names}.union(passed.shut))
        if batch:
            # What was not reached in this turn comes first in the next.
            last = max(batch, key=lambda one: buckets.index(one.bucket)).bucket
            self._turn = last + 1 if len(batch) >= self.orders.batch else self._turn
        return batch

    async def _send(
        self, publisher: Publisher, batch: Sequence[Pending], held: Mapping[int, Lease], stop: asyncio.Event
    ) -> None:
        """Send a batch and do what follows from its outcomes."""
        still = [share for share in self.shares.usable() if self.shares.held[share] == held.get(share)]
        batch = [one for one in batch if share_of(one.bucket) in still]
        held = {share: held[share] for share in sorted({share_of(one.bucket) for one in batch})}
        if not batch:
            return
        if self.holds:
            await self._count(batch)
        outcomes = await publish(publisher, self.envelopes, batch, stop)
        grace = self.orders.grace
        given_up = frozenset(topic for topic in self.holds.unknown_since if self.holds.is_given_up(topic, grace))
        sent = told_apart(batch, outcomes, given_up)
        self._note(sent)
        await self._take_away(sent, held, stop)

    async def _count(self, batch: Sequence[Pending]) -> None:
        """Attempts are counted before the message is sent again; the first one is not worth a statement."""
        firsts = {one.name: one.position for one in reversed(batch) if one.name in self.holds.keys}
        firsts.update({one.name: one.position for one in reversed(batch) if one.message.topic in self.holds.topics})
        if not firsts:
            return
        outbox = self.database.tables.outbox
        again = update(outbox).where(outbox.c.position.in_(firsts.values())).values(attempts=outbox.c.attempts + 1)
        await self.database.write(lambda connection: connection.execute(again) and None)

    def _note(self, sent: Sent) -> None:
        parked = [one.pending for one in sent.refused]
        done = [*sent.acknowledged, *parked]
        if self.holds:
            self.holds.passed({one.message.topic for one in sent.acknowledged}, {one.name for one in done})
        for name, reason in sent.held.items():
            self.holds.hold_key(name, reason)
        for topic, reason in sent.unknown.items():
            self.holds.hold_topic(topic, reason)
        self.failed += len(sent.held) + len(sent.unknown) + len(sent.refused)
        if sent.held or sent.unknown:
            reason = next(iter((*sent.held.values(), *sent.unknown.values())))
            log.warning("keys_held", keys=len(sent.held), topics=sorted(sent.unknown), error=reason)

    async def _take_away(self, sent: Sent, held: Mapping[int, Lease], stop: asyncio.Event) -> None:
        """Delete what was acknowledged and park what was refused. While the database is away this is tried again: to
        forget what was acknowledged would mean to send it twice.
        """
        tables = self.database.tables
        rows = [(one.position, one.bucket) for one in sent.acknowledged]
        failures = 0
        while rows or sent.refused:
            try:
                if sent.refused:
                    kept = await self.database.write(partial(self._park, sent=sent, held=held, rows=rows))
                else:
                    kept = await self.database.write_once(partial(settle, tables=tables, held=held, rows=rows))
            except (UnavailableError, UnknownOutcomeError) as error:
                failures += 1
                if stop.is_set():
                    raise
                log.warning("acknowledged_not_deleted_yet", messages=len(rows), error=str(error))
                await self._wait(pause_after(failures), stop, woken=False)
                continue
            if lost := set(held) - kept:
                log.warning("relay_lost_shares", shares=sorted(lost))
            break

    def _park(
        self, connection: Connection, sent: Sent, held: Mapping[int, Lease], rows: Sequence[tuple[int, int]]
    ) -> set[int]:
        """In one transaction, fenced as a whole: a message that was refused goes with its key's blocking."""
        tables, now = self.database.tables, self.clock.now()
        for lease in held.values():
            leases.fenced(connection, tables, lease)
        for refused in sent.refused:
            message = refused.pending.message
            log.error("message_parked", consumer="relay", topic=message.topic, error=refused.reason)
            park_refused(connection, tables, refused, ids=self.ids, now=now)
        gone = [(one.pending.position, one.pending.bucket) for one in sent.refused]
        self._swept_at = float("-inf")  # what follows is parked next
        return settle(connection, tables, held, [*rows, *gone])

    async def _sweep(self, buckets: Sequence[int]) -> bool:
        """Move what is in the way; True if something was moved, so that there may be more."""
        tables = self.database.tables
        self._swept_at = self.holds.clock()
        found = await self.database.read(partial(look, tables=tables, buckets=buckets, passed=self._passed()))
        self._next_due = None if found.due_in is None else self._swept_at + found.due_in
        self._is_swept = True
        if not found.has_work:
            return False
        held = self.shares.leases_of(buckets)

        def work(connection: Connection) -> None:
            for lease in held.values():
                leases.fenced(connection, tables, lease)
            sweep(connection, tables, found, set(held), buckets, ids=self.ids, now=self.clock.now())

        await self.database.write(work)
        self.asides.names.update({name: share for one, name in found.aside if (share := share_of(one.bucket)) in held})
        self._swept_at = float("-inf")
        return True

    def _is_time(self) -> bool:
        now = self.holds.clock()
        is_due = self._next_due is not None and now >= self._next_due
        return is_due or now - self._swept_at >= (SWEPT_WHEN_QUIET if self._is_swept else SWEPT_EVERY)

    def _passed(self) -> Passed:
        return Passed(tuple(self.holds.waiting_keys()), tuple(self.holds.waiting_topics()), self.orders.topics)

    def _mine(self, shares: Sequence[int] | set[int] | dict[int, Lease]) -> list[int]:
        return [share for share in shares if share % LANES == self.number]

    def _in_turn(self, buckets: list[int]) -> list[int]:
        """Beginning behind those that had the last turn, so that none waits for another that never ends."""
        return sorted(buckets, key=lambda bucket: (bucket < self._turn, bucket))

    async def _give_back(self, shares: Sequence[int]) -> None:
        if shares:
            await self.shares.give_back(shares)

    def _pause(self) -> float:
        now = self.holds.clock()
        pauses = [self.orders.poll()]
        if (due_in := self.holds.due_in()) is not None:
            pauses.append(due_in)
        if self._next_due is not None:
            pauses.append(self._next_due - now)
        if not self._is_swept:
            pauses.append(self._swept_at + SWEPT_EVERY - now)
        return max(0.01, min(pauses))

    async def _backed_off(self, error: Exception, stop: asyncio.Event) -> float:
        """Trouble with the broker or the database as a whole is waited out, with growing random pauses."""
        self._failures += 1
        self.failed += 1
        log.warning("relay_waits", lane=self.number, attempt=self._failures, error=str(error))
        await self._wait(pause_after(self._failures, random.random), stop, woken=False)
        return 0.0

    async def _wait(self, seconds: float, stop: asyncio.Event, *, woken: bool = True) -> bool:
        """Until woken, stopped, or the time is over; whether it was woken."""
        waits = [asyncio.ensure_future(stop.wait())]
        if woken:
            waits.append(asyncio.ensure_future(self.woken.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        return self.woken.is_set()
