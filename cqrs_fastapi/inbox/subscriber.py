"""Feeds one durable handler from the store: event after event, each with its checkpoint in the effect's transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.dead_letters.parking import Reason
from cqrs_fastapi.errors import MessageError, UnavailableError, UnknownMessageError, UnknownOutcomeError
from cqrs_fastapi.eventstore.checkpoints import (
    Checkpoint,
    CheckpointMovedError,
    advance,
    last_event,
    read_checkpoint,
    verify,
)
from cqrs_fastapi.eventstore.horizon import Horizon, read_horizon
from cqrs_fastapi.eventstore.subscription import (
    Arrival,
    Batch,
    HistoryMovedError,
    Selection,
    SharedHorizon,
    Subscription,
    place_of,
)
from cqrs_fastapi.inbox.added import close, late_events, passed_over
from cqrs_fastapi.inbox.cases import AlsoWrite, stream_sequence
from cqrs_fastapi.inbox.claims import settled_and_closed
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.handling import Handlings, PlaceLostError, Settlement, wait_for
from cqrs_fastapi.inbox.revealing import reveal_stored
from cqrs_fastapi.inbox.starts import Reader
from cqrs_fastapi.inbox.stored import message_of
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError
from cqrs_fastapi.storage import leases
from cqrs_fastapi.storage.leases import Lease, LeaseLostError

log = structlog.get_logger("cqrs_fastapi")

CATCH_UP_SECONDS = 1.0
"""How often a checkpoint follows W over events that nobody waits for."""
_PAUSE_WHILE_AWAY, _PAUSE_WHILE_FORGETTING = 0.5, 0.05
"""Seconds. Until the transaction that forgets is committed, the key is not gone for readers."""


class _HeldError(Exception):
    """The reader goes on when the event at this position can be read."""

    def __init__(self, position: int, what: str) -> None:
        self.position = position
        super().__init__(what)


@dataclass(slots=True)
class Subscriber:
    """The events of one handler, in the order of their positions. What it does is undone once the lease is lost."""

    handlings: Handlings
    registry: EventRegistry
    shared: SharedHorizon
    reader: Reader
    lease: Lease
    held: dict[str, str] = field(default_factory=dict)
    """What it waits for at an event that this code cannot read, by its name; shared with who tells it."""
    in_doubt: bool = False
    """Whether the next event may be the one that the last reader has died of."""
    _passed: Checkpoint = field(init=False)
    """As it is stored."""
    _reached: Batch | None = None
    """What was read and settled last; the checkpoint may follow up to its end."""
    _caught_up_at: float = 0.0
    _closed: set[bytes] = field(default_factory=set)
    """Streams of the batch in the works that are closed for the handler."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; an event in the works is finished. Raises PlaceLostError and HistoryChangedError."""
        try:
            await self._run(stop)
        finally:
            self.held.pop(self.reader.consumer, None)

    async def _run(self, stop: asyncio.Event) -> None:
        held_at, holds = 0, 0
        while not stop.is_set():
            try:
                subscription = await self._open()
                if await self._go_back(stop):
                    await self._read_on(subscription, stop)
            except _HeldError as error:
                # It may be repaired in the store. Most often another process, with newer code, has to take over.
                held_at, holds = error.position, holds + 1 if error.position == held_at else 1
                log.error("event_held", consumer=self.reader.consumer, error=str(error))
                await wait_for(stop, self.handlings.pause_after(holds))
            except HistoryMovedError as error:
                log.warning("history_verified_again", consumer=self.reader.consumer, reason=str(error))
            except (UnavailableError, UnknownOutcomeError) as error:
                log.warning("database_unavailable", consumer=self.reader.consumer, error=str(error))
                await wait_for(stop, _PAUSE_WHILE_AWAY)

    async def _open(self) -> Subscription:
        """Take up the stored checkpoint, after its history was verified."""
        horizon = await self.shared.fresh()
        self._passed, verified = await self.handlings.database.read(self._verified)
        if verified.server != horizon.server:
            raise HistoryMovedError
        self._reached = None
        selection, start = Selection(types=self.reader.types), place_of(self._passed, horizon)
        return Subscription(self.handlings.database, self.shared, selection, start)

    def _verified(self, connection: Connection) -> tuple[Checkpoint, Horizon]:
        tables = self.handlings.database.tables
        checkpoint = read_checkpoint(connection, tables, self.reader.consumer)
        if checkpoint is None:
            raise PlaceLostError(f"the checkpoint of {self.reader.consumer} was deleted; it begins anew")
        horizon = read_horizon(connection, tables)  # after it, so that it cannot be behind what the checkpoint has seen
        verify(connection, tables, checkpoint, horizon)
        return checkpoint, horizon

    async def _go_back(self, stop: asyncio.Event) -> bool:
        """Settle what a reader passed over that did not know of a binding; False if it was time to stop before that."""
        database, reader = self.handlings.database, self.reader
        bound_at = await database.read(
            partial(passed_over, tables=database.tables, consumer=reader.consumer, events=reader.types)
        )
        async for late in late_events(database, bound_at, through=self._passed.position):
            _, self._closed = await self._known(late)
            for arrival in late:
                if await self._given(arrival, stop, self._fence) is Settlement.STOPPED or stop.is_set():
                    return False
        if bound_at:
            await database.write(partial(self._close, events=bound_at))
        return True

    def _close(self, connection: Connection, events: Iterable[str]) -> None:
        self._fence(connection)
        now = self.handlings.kernel.clock.now()
        close(connection, self.handlings.database.tables, self.reader.consumer, events, now=now)

    async def _read_on(self, subscription: Subscription, stop: asyncio.Event) -> None:
        while (batch := await self._next(subscription, stop)) is not None:
            if batch.events and not await self._settle_all(batch, stop):
                return
            self._reached = batch
            self.held.pop(self.reader.consumer, None)

    async def _next(self, subscription: Subscription, stop: asyncio.Event) -> Batch | None:
        """The next batch, or None when it is time to stop. While it waits, the checkpoint follows what was passed."""
        reading, stopping = asyncio.ensure_future(subscription.next()), asyncio.ensure_future(stop.wait())
        try:
            while not reading.done():
                await asyncio.wait({reading, stopping}, timeout=self._due(), return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    return None
                if self._due() == 0.0:
                    await self._catch_up()
            return reading.result()
        finally:
            stopping.cancel()
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})

    async def _settle_all(self, batch: Batch, stop: asyncio.Event) -> bool:
        """False if it was time to stop before all of it was settled."""
        known, self._closed = await self._known(batch.events)
        for arrival in batch.events:
            if stop.is_set():
                return False
            if not self._is_settled(arrival, known) and not await self._settle(arrival, batch.highest, stop):
                return False
        return True

    def _is_settled(self, arrival: Arrival, known: set[UUID]) -> bool:
        """Of an event that becomes several the id is settled with the first of them: each finds out by its claim."""
        stored = arrival.stored
        return stored.message_id in known and self.registry.as_it_is(stored.type, stored.schema_version) is not None

    async def _known(self, events: Sequence[Arrival]) -> tuple[set[UUID], set[bytes]]:
        """Which of them are settled already, and which of their streams are closed."""
        return await self.handlings.database.read(
            partial(
                settled_and_closed,
                tables=self.handlings.database.tables,
                consumer=self.reader.consumer,
                message_ids=[arrival.stored.message_id for arrival in events],
                keys={stream_sequence(arrival.stored.stream, arrival.tenant) for arrival in events},
            )
        )

    async def _settle(self, arrival: Arrival, highest: int, stop: asyncio.Event) -> bool:
        stored = arrival.stored
        after = Checkpoint(self.reader.consumer, stored.position, stored.message_id, highest)
        settlement = await self._given(arrival, stop, partial(self._pass, before=self._passed, after=after))
        if settlement is Settlement.NOW:
            self._passed = after
        elif settlement is Settlement.BEFORE:
            # By an attempt whose answer was lost, perhaps, which has moved the checkpoint too.
            self._passed, _ = await self.handlings.database.read(self._verified)
        return settlement is not Settlement.STOPPED

    async def _given(self, arrival: Arrival, stop: asyncio.Event, also: AlsoWrite) -> Settlement | None:
        """None if this handler does not react to what the event is read as."""
        self.held.pop(self.reader.consumer, None)
        while True:
            try:
                envelopes = await reveal_stored(arrival, self.registry, self.handlings.personal)
            except UnknownMessageError as error:
                self._hold(arrival, error)
                return None
            except MessageError as error:
                message, reason = message_of(arrival), Reason.of(error)
                return await self.handlings.park(self.reader.consumer, message, reason, stop, also, self._closed)
            try:
                return await self._settle_each(envelopes, arrival, stop, also)
            except ForgottenMeanwhileError as error:
                log.info("message_opened_again", consumer=self.reader.consumer, reason=error.code)
                await wait_for(stop, _PAUSE_WHILE_FORGETTING)

    async def _settle_each(
        self, envelopes: Sequence[Envelope], arrival: Arrival, stop: asyncio.Event, also: AlsoWrite
    ) -> Settlement | None:
        """Of several events the last one that the handler reacts to is settled together with `also`."""
        mine = [(one, found) for one in envelopes if (found := self._handling(type(one.event))) is not None]
        settlement: Settlement | None = None
        for left, (envelope, handling) in zip(reversed(range(len(mine))), mine, strict=True):
            if settlement is not None and stop.is_set():
                return Settlement.STOPPED
            with_it = self._fence if left else also
            if self.in_doubt:
                self.handlings.doubts.add(handling.consumer, [envelope.metadata.message_id], certain=True)
            message = message_of(arrival)
            settlement = await self.handlings.settle(handling, envelope, message, stop, with_it, self._closed)
            if settlement is Settlement.STOPPED:
                break
            self.in_doubt = self.in_doubt and settlement is Settlement.PASSED
        return settlement

    def _hold(self, arrival: Arrival, error: UnknownMessageError) -> None:
        """Nothing is done where the handler skips what is unknown; else it waits here, so that order is kept."""
        stored, consumer = arrival.stored, self.reader.consumer
        if not self.reader.skips_unknown:
            self.held[consumer] = (
                f"at position {stored.position} for code that reads {stored.type!r} version {stored.schema_version}"
            )
            raise _HeldError(stored.position, f"{consumer} waits {self.held[consumer]}") from error
        log.warning("unknown_event_skipped", consumer=consumer, position=stored.position, error=str(error))

    def _handling(self, event_type: type) -> Handling | None:
        """Looked up each time, since an override replaces them."""
        durable = self.handlings.kernel.pipelines.durable.get(event_type, ())
        return next((handling for handling in durable if handling.consumer == self.reader.consumer), None)

    def _due(self) -> float | None:
        """Seconds until the checkpoint is to follow; None if it is where it should be."""
        if self._reached is None or self._reached.through <= self._passed.position:
            return None
        return max(0.0, self._caught_up_at + CATCH_UP_SECONDS - asyncio.get_running_loop().time())

    async def _catch_up(self) -> None:
        reached, self._caught_up_at = self._reached, asyncio.get_running_loop().time()
        if reached is None:
            return
        try:
            self._passed = await self.handlings.database.write(partial(self._follow, reached=reached))
        except UnavailableError as error:
            log.warning("checkpoint_not_moved", consumer=self.reader.consumer, error=str(error))

    def _follow(self, connection: Connection, reached: Batch) -> Checkpoint:
        last = last_event(connection, self.handlings.database.tables, reached.through)
        after = Checkpoint(self.reader.consumer, reached.through, last, reached.highest)
        self._pass(connection, before=self._passed, after=after)
        return after

    def _pass(self, connection: Connection, before: Checkpoint, after: Checkpoint) -> None:
        """Move the checkpoint, in the transaction that settles what it passes. A reader that is no longer the one to
        read is refused twice: by the lease, and by the place that its successor has moved.
        """
        tables, now = self.handlings.database.tables, self.handlings.kernel.clock.now()
        self._fence(connection)
        try:
            advance(connection, tables, before, after, now=now)
        except CheckpointMovedError as error:
            raise PlaceLostError(f"{self.reader.consumer} reads on elsewhere: {error}") from error

    def _fence(self, connection: Connection) -> None:
        try:
            leases.fenced(connection, self.handlings.database.tables, self.lease)
        except LeaseLostError as error:
            raise PlaceLostError(f"{self.reader.consumer} reads on elsewhere: {error}") from error
