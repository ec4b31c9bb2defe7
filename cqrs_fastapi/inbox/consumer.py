"""The consumer: receives messages, gives them to the durable handlers, and lets the offsets pass what is settled.

Events of this service's own store are passed over: their handlers read them there (see `subscriptions`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage, Subscription
from cqrs_fastapi.dead_letters.parking import Reason
from cqrs_fastapi.errors import MessageError, UnavailableError, UnknownMessageError
from cqrs_fastapi.inbox.claims import in_store, settled
from cqrs_fastapi.inbox.envelope import Envelope, message_id_of
from cqrs_fastapi.inbox.handling import Handlings, Settlement, wait_for
from cqrs_fastapi.inbox.revealing import reveal_message
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError

log = structlog.get_logger("cqrs_fastapi")

_PAUSE_WHILE_AWAY = 0.5
_PAUSE_WHILE_FORGETTING = 0.05


class Receiver(Protocol):
    """What the messages of some topics are given to, instead of the handlers of events."""

    async def receive(self, message: IncomingMessage, stop: asyncio.Event) -> bool:
        """Settle it, however often it was received before; False if it was time to stop before that."""
        ...


class Subscribes(Protocol):
    """The part of a broker that a consumer needs."""

    async def subscribe(self, group: str, topics: Sequence[str]) -> Subscription: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says about a batch: the messages of the own store, and the pairs that the inbox holds."""

    in_store: frozenset[UUID] = frozenset()
    settled: frozenset[tuple[str, UUID]] = frozenset()


@dataclass(slots=True)
class Consumer:
    """One member of the service's consumer group. Partitions are worked on at once, each in its own order."""

    broker: Subscribes
    handlings: Handlings
    registry: EventRegistry
    group: str
    topics: Sequence[str]
    receivers: Mapping[str, Receiver] = field(default_factory=dict)
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

    async def _known(self, messages: Sequence[IncomingMessage]) -> _Known:
        """What is known already; while the database is away, nothing can be handled anyway."""
        ids = [message_id for message in messages if (message_id := message_id_of(message)) is not None]
        while not self._stop.is_set():
            try:
                return await self.handlings.database.read(partial(self._look_up, ids=ids))
            except UnavailableError as error:
                log.warning("database_unavailable", worker=self.name, error=str(error))
                await self._sleep(_PAUSE_WHILE_AWAY)
        return _Known()

    def _look_up(self, connection: Connection, ids: Sequence[UUID]) -> _Known:
        """By their ids, and not by headers that name their sender: anybody could write those, and be passed over."""
        tables, durable = self.handlings.database.tables, self.handlings.kernel.pipelines.durable
        consumers = {handling.consumer for handlings in durable.values() for handling in handlings}
        own = in_store(connection, tables, ids)
        others = [message_id for message_id in ids if message_id not in own]
        return _Known(
            frozenset(own), frozenset(settled(connection, tables, consumers, others)) if others else frozenset()
        )

    async def _lane(self, lane: list[IncomingMessage], known: _Known) -> list[IncomingMessage]:
        finished: list[IncomingMessage] = []
        for message in lane:
            if self._stop.is_set() or not await self._settle(message, known):
                break
            finished.append(message)
        return finished

    async def _settle(self, message: IncomingMessage, known: _Known) -> bool:
        """Settle one message for every handler, one after the other; False if it was time to stop before that."""
        if (receiver := self.receivers.get(message.topic)) is not None:
            return await receiver.receive(message, self._stop)
        if message_id_of(message) in known.in_store:
            return True
        while not self._stop.is_set():
            try:
                envelopes = await self._open(message)
            except MessageError as error:
                return await self._refuse(message, error)
            except UnavailableError as error:  # whoever keeps the keys of what it holds
                log.warning("message_not_decrypted", worker=self.name, error=str(error))
                await self._sleep(_PAUSE_WHILE_AWAY)
                continue
            try:
                return await self._give(envelopes, message, known)
            except ForgottenMeanwhileError as error:
                log.info("message_opened_again", worker=self.name, reason=error.code)
                await self._sleep(_PAUSE_WHILE_FORGETTING)
        return False

    async def _open(self, message: IncomingMessage) -> list[Envelope]:
        limit = self.handlings.settings.max_message_bytes
        return await reveal_message(message, self.registry, self.handlings.personal, max_bytes=limit)

    async def _refuse(self, message: IncomingMessage, error: MessageError) -> bool:
        """It is kept as a dead letter, unless nobody wants to hear of what is unknown."""
        if isinstance(error, UnknownMessageError) and self._skips(error.name, message.topic):
            log.warning("unknown_event_skipped", worker=self.name, topic=message.topic, error=str(error))
            return True
        parked = await self.handlings.park(self.group, message, Reason.of(error), self._stop)
        return parked is not Settlement.STOPPED

    async def _give(self, envelopes: Sequence[Envelope], message: IncomingMessage, known: _Known) -> bool:
        for envelope in envelopes:
            if not await self._handle(envelope, message, known):
                return False
        return True

    async def _handle(self, envelope: Envelope, message: IncomingMessage, known: _Known) -> bool:
        """Give it to every handler that has not settled it yet. One that has done so meanwhile finds out by itself."""
        for handling in self.handlings.kernel.pipelines.durable.get(type(envelope.event), ()):
            if (handling.consumer, envelope.metadata.message_id) in known.settled:
                continue
            if await self.handlings.settle(handling, envelope, message, self._stop) is Settlement.STOPPED:
                return False
        return True

    def _skips(self, name: str, topic: str) -> bool:
        """Whether no handler holds what is stored under a name: of those that are bound to events of this name, or
        else, since anyone may have come to want it, of those that are bound to events of the topic.
        """
        durable = self.handlings.kernel.pipelines.durable
        bound = [(definition_of(event_type), one) for event_type, all_of in durable.items() for one in all_of]
        concerned = [one for definition, one in bound if name in self.registry.sources_of(definition.name)]
        concerned = concerned or [one for definition, one in bound if definition.topic == topic]
        return bool(concerned) and all(one.unknown == "skip" for one in concerned)

    async def _sleep(self, seconds: float) -> None:
        await wait_for(self._stop, seconds)
