"""Hears the replies to the requests of this process."""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import dataclass, field

import structlog

from cqrs_fastapi.brokers.broker import Broker, Subscription
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.remote.pending import Pending

log = structlog.get_logger("cqrs_fastapi")

_PAUSE_WHILE_AWAY = 0.5


@dataclass(slots=True)
class ReplyListener:
    """Listens from the first request on. The topic is the service's: each of its processes hears all replies, and
    takes those to its own requests.
    """

    broker: Broker
    topic: str
    pending: Pending
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _hearing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Returns when every reply to what is sent from now on will be heard. Raises UnavailableError."""
        async with self._opening:
            if self._hearing is None or self._hearing.done():
                await self.broker.ensure_topics([self.topic])
                subscription = await self.broker.listen([self.topic])
                hearing = self._hear(subscription)
                # In a context of its own: it belongs to no message.
                self._hearing = asyncio.get_running_loop().create_task(hearing, context=Context())

    async def close(self) -> None:
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            hearing.cancel()
            await asyncio.wait({hearing})

    async def _hear(self, subscription: Subscription) -> None:
        try:
            while True:
                try:
                    await self._receive(subscription)
                except UnavailableError as error:
                    log.warning("broker_unavailable", worker="replies", error=str(error))
                    await asyncio.sleep(_PAUSE_WHILE_AWAY)
        finally:
            await subscription.close()

    async def _receive(self, subscription: Subscription) -> None:
        replies = await subscription.receive()
        for reply in replies:
            self.pending.deliver(reply)
        await subscription.settle(replies)
