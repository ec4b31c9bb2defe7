"""Gives the messages of a topic to the durable handlers of their events.

Events of this service's own store are passed over: their handlers read them there (see `subscriptions`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage, Place
from cqrs_fastapi.dead_letters.parked_keys import closed_among
from cqrs_fastapi.dead_letters.parking import Reason
from cqrs_fastapi.errors import MessageError, UnknownMessageError
from cqrs_fastapi.inbox.batches import Batches
from cqrs_fastapi.inbox.claims import in_store, settled
from cqrs_fastapi.inbox.dispatches import Dispatches
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.pieces import EventPiece, RefusedPiece
from cqrs_fastapi.inbox.receiver import Piece
from cqrs_fastapi.inbox.revealing import reveal_message
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.registry import EventRegistry

log = structlog.get_logger("cqrs_fastapi")


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says about messages: those of the own store, the pairs of handler and message that the inbox
    holds, and those of handler and key that are closed.
    """

    in_store: frozenset[UUID]
    settled: frozenset[tuple[str, UUID]]
    closed: frozenset[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class EventReceiver:
    """Of two handlers of one event neither waits for the other."""

    handlings: Handlings
    registry: EventRegistry
    group: str
    batches: Batches
    dispatches: Dispatches
    topic_of: Callable[[type[AnyEvent]], str | None]
    closed: defaultdict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """What is known of closed keys, for each handler. The claim of a message finds out what is true."""

    async def open(self, messages: Sequence[IncomingMessage]) -> Sequence[Sequence[Piece]]:
        doubted = await self.dispatches.begin(messages[-1].place, messages[-1].offset)
        known = await self.handlings.database.read(partial(self._look_up, messages=messages))
        for consumer, key in known.closed:
            self.closed[consumer].add(key)
        return [await self._pieces(message, known, in_doubt=message.offset <= doubted) for message in messages]

    async def give_up(self, place: Place, *, is_finished: bool) -> None:
        if is_finished:
            await self.dispatches.end(place)
        else:
            self.dispatches.leave(place)

    async def settle_together(self, pieces: Sequence[Piece], stop: asyncio.Event) -> Collection[Piece]:
        return await self.batches.settle([piece for piece in pieces if isinstance(piece, EventPiece)], stop)

    def _look_up(self, connection: Connection, messages: Sequence[IncomingMessage]) -> _Known:
        """By their ids, and not by headers that name their sender: anybody could write those, and be passed over."""
        tables, durable = self.handlings.database.tables, self.handlings.kernel.pipelines.durable
        handlings = [handling for all_of in durable.values() for handling in all_of]
        consumers = {handling.consumer for handling in handlings}
        ordered = {handling.consumer for handling in handlings if handling.on_failure.ordered}
        ids = [one for message in messages if (one := self.handlings.message_id_of(message)) is not None]
        keys = {message.key for message in messages if message.key is not None}
        own = in_store(connection, tables, ids)
        others = [message_id for message_id in ids if message_id not in own]
        done = settled(connection, tables, consumers, others) if others else ()
        # Asked last: what somebody parks meanwhile is never seen as settled without its closed key.
        closed = closed_among(connection, tables, ordered, keys) if others else ()
        return _Known(frozenset(own), frozenset(done), frozenset(closed))

    async def _pieces(self, message: IncomingMessage, known: _Known, *, in_doubt: bool) -> Sequence[Piece]:
        if self.handlings.message_id_of(message) in known.in_store:
            return ()
        try:
            envelopes = await self._open(message)
        except MessageError as error:
            return self._refused(message, error)
        durable = self.handlings.kernel.pipelines.durable
        pieces = [
            EventPiece(self.handlings, handling, envelope, message, self._open, self.closed[handling.consumer])
            for envelope in envelopes
            for handling in durable.get(type(envelope.event), ())
            # One that has done so meanwhile finds out by itself.
            if (handling.consumer, envelope.metadata.message_id) not in known.settled
        ]
        if in_doubt:
            for piece in pieces:
                self.handlings.doubts.add(piece.consumer, [piece.envelope.metadata.message_id])
        return pieces

    async def _open(self, message: IncomingMessage) -> list[Envelope]:
        limit = self.handlings.settings.max_message_bytes
        personal, envelopes = self.handlings.personal, self.handlings.envelopes
        return await reveal_message(message, self.registry, personal, envelopes, max_bytes=limit)

    def _refused(self, message: IncomingMessage, error: MessageError) -> Sequence[Piece]:
        """It is kept as a dead letter, unless nobody wants to hear of what is unknown."""
        if isinstance(error, UnknownMessageError) and self._skips(error.name, message.topic):
            log.warning("unknown_event_skipped", topic=message.topic, error=str(error))
            return ()
        return [RefusedPiece(self.handlings, self.group, message, Reason.of(error))]

    def _skips(self, name: str, topic: str) -> bool:
        """Whether no handler holds what is stored under a name: of those that are bound to events of this name, or
        else, since anyone may have come to want it, of those that are bound to events of the topic.
        """
        durable = self.handlings.kernel.pipelines.durable
        bound = [(event_type, one) for event_type, all_of in durable.items() for one in all_of]
        concerned = [one for known, one in bound if name in self.registry.sources_of(definition_of(known).name)]
        concerned = concerned or [one for event_type, one in bound if self.topic_of(event_type) == topic]
        return bool(concerned) and all(one.unknown == "skip" for one in concerned)
