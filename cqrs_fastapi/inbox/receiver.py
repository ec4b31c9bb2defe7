"""What a consumer gives the messages of a topic to: events to their handlers, and whatever else may be bound to one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from cqrs_fastapi.brokers.broker import IncomingMessage, Place


class Piece(Protocol):
    """One message for one consumer: pieces of different consumers are settled independently of each other."""

    @property
    def message(self) -> IncomingMessage: ...

    @property
    def consumer(self) -> str:
        """Among the pieces of one consumer, those of one key are settled in their order, one after the other."""
        ...

    @property
    def may_share(self) -> bool:
        """Whether it may be settled together with others."""
        ...

    async def settle(self, stop: asyncio.Event) -> bool:
        """Until it is done or parked. False if it was time to stop before that. It knows no other failure: what it
        raises ends the consumer, which is then run again.
        """
        ...


class Receiver(Protocol):
    """Bound to a topic in the consumer. Pieces come back to the receiver that made them."""

    async def open(self, messages: Sequence[IncomingMessage]) -> Sequence[Sequence[Piece]]:
        """The pieces of each message; none if there is nothing to do with it. What cannot be understood is a piece
        that keeps it as a dead letter. UnavailableError: it is to be asked again.
        """
        ...

    async def settle_together(self, pieces: Sequence[Piece], stop: asyncio.Event) -> Collection[Piece]:
        """Those that are settled now, all of one consumer, in their order. The others are settled one by one, and the
        rest of a key behind one that was left is left as well.
        """
        ...

    async def give_up(self, place: Place, *, is_finished: bool) -> None:
        """Nothing more is opened of this partition. Unless `is_finished`, some of its pieces may be under way still."""
        ...
