"""The consumer: receives messages, gives them to the durable handlers, and lets the offsets pass what is settled."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from cqrs_fastapi.brokers.broker import Broker, IncomingMessage, Subscription
from cqrs_fastapi.dead_letters.parking import Reason
from cqrs_fastapi.errors import MessageError, UnavailableError
from cqrs_fastapi.inbox.claims import settled
from cqrs_fastapi.inbox.envelope import message_id_of, open_envelope
from cqrs_fastapi.inbox.handling import Handlings, wait_for
from cqrs_fastapi.messages.registry import EventRegistry

log = structlog.get_logger("cqrs_fastapi")

_PAUSE_WHILE_AWAY = 0.5


@dataclass(slots=True)
class Consumer:
    """One member of the service's consumer group. Partitions are worked on at once, each in its own order."""

    broker: Broker
    handlings: Handlings
    registry: EventRegistry
    group: str
    topics: Sequence[str]
    name: str = "consumer"
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; a message in the works is finished, the rest of its batch is received again."""
        self._stop = stop
        if not self.topics:
            await stop.wait()
            return
        subscription = await self._subscribe(stop)
        if subscription is None:
            return
        try:
            while not stop.is_set():
                await self._turn(subscription)
        finally:
            await subscription.close()

    async def _subscribe(self, stop: asyncio.Event) -> Subscription | None:
        """A broker that is away at the start is waited for."""
        while not stop.is_set():
            try:
                return await self.broker.subscribe(self.group, self.topics)
            except UnavailableError as error:
                log.warning("broker_unavailable", worker=self.name, error=str(error))
                await self._sleep(_PAUSE_WHILE_AWAY)
        return None

    async def _turn(self, subscription: Subscription) -> None:
        try:
            messages = await self._receive(subscription)
            if messages:
                await subscription.settle(await self._settle_all(messages))
        except UnavailableError as error:
            log.warning("broker_unavailable", worker=self.name, error=str(error))
            await self._sleep(_PAUSE_WHILE_AWAY)

    async def _receive(self, subscription: Subscription) -> Sequence[IncomingMessage]:
        """Messages, or none when it is time to stop."""
        receiving = asyncio.ensure_future(subscription.receive())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return receiving.result() if receiving.done() else ()
        finally:
            stopping.cancel()
            if not receiving.done():
                receiving.cancel()
                await asyncio.wait({receiving})

    async def _settle_all(self, messages: Sequence[IncomingMessage]) -> list[IncomingMessage]:
        """Work through a batch, partition by partition; those that are settled when it is time to stop."""
        known = await self._known(messages)
        lanes: dict[tuple[str, int], list[IncomingMessage]] = defaultdict(list)
        for message in messages:
            lanes[message.topic, message.partition].append(message)
        done = await asyncio.gather(*(self._lane(lane, known) for lane in lanes.values()))
        return [message for lane in done for message in lane]

    async def _known(self, messages: Sequence[IncomingMessage]) -> set[tuple[str, object]]:
        """What the inbox knows already; while the database is away, nothing can be handled anyway."""
        ids = [message_id for message in messages if (message_id := message_id_of(message)) is not None]
        database = self.handlings.database
        while not self._stop.is_set():
            try:
                return set(await database.read(lambda connection: settled(connection, database.tables, ids)))
            except UnavailableError as error:
                log.warning("database_unavailable", worker=self.name, error=str(error))
                await self._sleep(_PAUSE_WHILE_AWAY)
        return set()

    async def _lane(self, lane: list[IncomingMessage], known: set[tuple[str, object]]) -> list[IncomingMessage]:
        finished: list[IncomingMessage] = []
        for message in lane:
            if self._stop.is_set() or not await self._settle(message, known):
                break
            finished.append(message)
        return finished

    async def _settle(self, message: IncomingMessage, known: set[tuple[str, object]]) -> bool:
        """Settle one message for every handler, one after the other; False if it was time to stop before that."""
        try:
            envelope = open_envelope(message, self.registry, max_bytes=self.handlings.settings.max_message_bytes)
        except MessageError as error:
            return await self.handlings.park(self.group, message, Reason.of(error), attempts=0, stop=self._stop)
        pipelines = self.handlings.kernel.pipelines
        for handling in pipelines.durable.get(type(envelope.event), ()):
            new = (handling.consumer, envelope.metadata.message_id) not in known
            if new and not await self.handlings.settle(handling, envelope, message, self._stop):
                return False
        return True

    async def _sleep(self, seconds: float) -> None:
        await wait_for(self._stop, seconds)
