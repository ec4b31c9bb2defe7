"""Gives the messages of a topic to the durable handlers of their events.

Events of this service's own store are passed over: their handlers read them there (see `subscriptions`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.parking import Reason
from cqrs_fastapi.errors import MessageError, UnknownMessageError
from cqrs_fastapi.inbox.batches import Batches
from cqrs_fastapi.inbox.claims import in_store, settled
from cqrs_fastapi.inbox.envelope import Envelope, message_id_of
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.pieces import EventPiece, RefusedPiece
from cqrs_fastapi.inbox.receiver import Piece
from cqrs_fastapi.inbox.revealing import reveal_message
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.registry import EventRegistry

log = structlog.get_logger("cqrs_fastapi")


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says about messages: those of the own store, and the pairs that the inbox holds."""

    in_store: frozenset[UUID]
    settled: frozenset[tuple[str, UUID]]


@dataclass(frozen=True, slots=True)
class EventReceiver:
    """Of two handlers of one event neither waits for the other."""

    handlings: Handlings
    registry: EventRegistry
    group: str
    batches: Batches

    async def open(self, messages: Sequence[IncomingMessage]) -> Sequence[Sequence[Piece]]:
        ids = [message_id for message in messages if (message_id := message_id_of(message)) is not None]
        known = await self.handlings.database.read(partial(self._look_up, ids=ids))
        return [await self._pieces(message, known) for message in messages]

    async def settle_together(self, pieces: Sequence[Piece], stop: asyncio.Event) -> Collection[Piece]:
        return await self.batches.settle([piece for piece in pieces if isinstance(piece, EventPiece)], stop)

    def _look_up(self, connection: Connection, ids: Sequence[UUID]) -> _Known:
        """By their ids, and not by headers that name their sender: anybody could write those, and be passed over."""
        tables, durable = self.handlings.database.tables, self.handlings.kernel.pipelines.durable
        consumers = {handling.consumer for handlings in durable.values() for handling in handlings}
        own = in_store(connection, tables, ids)
        others = [message_id for message_id in ids if message_id not in own]
        return _Known(
            frozenset(own), frozenset(settled(connection, tables, consumers, others)) if others else frozenset()
        )

    async def _pieces(self, message: IncomingMessage, known: _Known) -> Sequence[Piece]:
        if message_id_of(message) in known.in_store:
            return ()
        try:
            envelopes = await self._open(message)
        except MessageError as error:
            return self._refused(message, error)
        durable = self.handlings.kernel.pipelines.durable
        return [
            EventPiece(self.handlings, handling, envelope, message, self._open)
            for envelope in envelopes
            for handling in durable.get(type(envelope.event), ())
            # One that has done so meanwhile finds out by itself.
            if (handling.consumer, envelope.metadata.message_id) not in known.settled
        ]

    async def _open(self, message: IncomingMessage) -> list[Envelope]:
        limit = self.handlings.settings.max_message_bytes
        return await reveal_message(message, self.registry, self.handlings.personal, max_bytes=limit)

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
        bound = [(definition_of(event_type), one) for event_type, all_of in durable.items() for one in all_of]
        concerned = [one for definition, one in bound if name in self.registry.sources_of(definition.name)]
        concerned = concerned or [one for definition, one in bound if definition.topic == topic]
        return bool(concerned) and all(one.unknown == "skip" for one in concerned)
