"""The connection of one process to the broker by which it asks and is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cqrs_fastapi.brokers.broker import Broker, Delivery, IncomingMessage, Outcome, OutgoingMessage
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.remote.errors import RemoteFailedError
from cqrs_fastapi.remote.listener import ReplyListener
from cqrs_fastapi.remote.pending import Pending, Waiting
from cqrs_fastapi.remote.sender import DirectSender
from cqrs_fastapi.remote.wire import Address

_IDLE = 5.0
"""Seconds after which a connection may be dead without anybody having noticed."""
_LOOK_AFTER = 1.0
"""Seconds without an acknowledgement after which the broker is asked whether it is there."""


@dataclass(slots=True)
class Line:
    """Connects at the first request. Several may be on their way at once, as many as `pending` takes."""

    broker: Broker
    pending: Pending
    listener: ReplyListener
    sender: DirectSender
    _contact: float = float("-inf")
    _closed: bool = False

    async def exchange(
        self, message_to: Callable[[Address], OutgoingMessage], wanted: int, ends: float
    ) -> tuple[Sequence[IncomingMessage], str]:
        """Send one message and return the replies that came until `ends` (the loop's clock), and why there are no more.

        UnavailableError means that nothing was sent. Cancelled, it leaves nothing that waits.
        """
        await self._connect(ends)
        with self.pending.expect(wanted) as waiting:
            message = message_to(Address(self.listener.topic, waiting.token))
            sending = asyncio.ensure_future(self.sender.send(message))
            complete = asyncio.ensure_future(waiting.complete.wait())
            try:
                why = await self._wait(message.topic, waiting, sending, complete, ends)
            finally:
                sending.cancel()
                complete.cancel()
                await asyncio.gather(sending, complete, return_exceptions=True)
            return waiting.replies, why

    async def close(self) -> None:
        """Whoever waits for a reply learns that none will come."""
        self._closed = True
        self.pending.close()
        await self.listener.close()
        await self.sender.close()

    async def _connect(self, ends: float) -> None:
        if self._closed:
            raise UnavailableError("the application has stopped, and sends nothing more")
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(ends):
                if clock() - self._contact > _IDLE:
                    await self.broker.ping()
                await self.listener.open()
                await self.sender.open()
        except TimeoutError:
            raise UnavailableError("the broker did not answer in time; nothing was sent") from None
        self._contact = clock()

    async def _wait(
        self,
        topic: str,
        waiting: Waiting,
        sending: asyncio.Future[Outcome],
        complete: asyncio.Future[Any],
        ends: float,
    ) -> str:
        clock = asyncio.get_running_loop().time
        is_sent = False
        while not complete.done() and (left := ends - clock()) > 0:
            watched: set[asyncio.Future[Any]] = {complete} if is_sent else {complete, sending}
            timeout = left if is_sent else min(left, _LOOK_AFTER)
            await asyncio.wait(watched, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if is_sent or complete.done():
                continue
            if why := await self._trouble(topic, sending):
                return why
            if sending.done():
                is_sent, self._contact = True, clock()
        return "the application is stopping" if waiting.closed else "no reply came in time"

    async def _trouble(self, topic: str, sending: asyncio.Future[Outcome]) -> str:
        """Why there will hardly be a reply; empty while all is well."""
        if not sending.done():
            try:
                await self.broker.ping()
            except UnavailableError as error:
                return str(error)
            return ""
        outcome = sending.result()
        if outcome.delivery is Delivery.REFUSED:
            raise RemoteFailedError(topic, "not_sent", outcome.reason)
        return outcome.reason if outcome.delivery is Delivery.HELD else ""
