"""Sends what does not go through the outbox: requests that somebody waits for, and the replies to queries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field

from cqrs_fastapi.brokers.broker import Broker, Delivery, Outcome, OutgoingMessage, Publisher
from cqrs_fastapi.errors import UnavailableError

_BATCH = 500


@dataclass(frozen=True, slots=True)
class _Sending:
    message: OutgoingMessage
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True)
class DirectSender:
    """One publisher for the process. What is sent while a batch is on its way goes together in the next one.

    A broker in memory acknowledges only when the message has been handled, so there no batch waits for another.
    """

    broker: Broker
    _publisher: Publisher | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: list[_Sending] = field(default_factory=list)
    _batches: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        """Raises UnavailableError if the broker is away. Opened once, it does nothing."""
        async with self._opening:
            if self._publisher is None:
                self._publisher = await self.broker.publisher()

    async def send(self, message: OutgoingMessage) -> Outcome:
        """What became of it. Raises UnavailableError if the broker is away entirely, so that it was not sent.

        Cancelled while it waits for its turn, it is never sent; afterwards its fate is unknown.
        """
        await self.open()
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Sending(message, outcome))
        if self.broker.in_process or not self._batches:
            # In a context of its own: what goes together belongs to no message in particular.
            task = asyncio.get_running_loop().create_task(self._send_waiting(), context=Context())
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)
        return await outcome

    async def close(self) -> None:
        """Give up what is on its way."""
        for task in tuple(self._batches):
            task.cancel()
        if self._batches:
            await asyncio.wait(tuple(self._batches))
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    async def _send_waiting(self) -> None:
        while self._waiting:
            batch = [one for one in self._waiting[:_BATCH] if not one.outcome.done()]
            del self._waiting[:_BATCH]
            await self._send(batch)

    async def _send(self, batch: Sequence[_Sending]) -> None:
        try:
            outcomes = await self._published(batch)
        except UnavailableError as error:
            for one in batch:
                if not one.outcome.done():
                    one.outcome.set_exception(error)
        except BaseException as error:
            _tell(batch, [Outcome(Delivery.HELD, f"sending was broken off: {error!r}")] * len(batch))
            raise
        else:
            _tell(batch, outcomes)

    async def _published(self, batch: Sequence[_Sending]) -> Sequence[Outcome]:
        if self._publisher is None:
            raise UnavailableError("the application is stopping, and sends nothing more")
        return await self._publisher.publish([one.message for one in batch])


def _tell(batch: Sequence[_Sending], outcomes: Sequence[Outcome]) -> None:
    for one, outcome in zip(batch, outcomes, strict=True):
        if not one.outcome.done():
            one.outcome.set_result(outcome)
