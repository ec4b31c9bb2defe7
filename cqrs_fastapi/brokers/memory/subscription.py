"""Consuming from the memory of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cqrs_fastapi.brokers.broker import IncomingMessage, Subscription
from cqrs_fastapi.brokers.memory.queues import Group, Member
from cqrs_fastapi.errors import UnavailableError


class MemorySubscription:
    """One member of a group: it has its partitions for itself until it leaves."""

    def __init__(self, group: Group, member: Member, batch: int) -> None:
        self._group = group
        self._member = member
        self._batch = batch

    async def receive(self) -> Sequence[IncomingMessage]:
        """Wait for messages. Raises UnavailableError when this subscription or the broker is closed meanwhile."""
        while not self._member.closed:
            # Cleared before looking, so that what arrives while looking wakes the next wait.
            self._member.wake.clear()
            if messages := self._group.take(self._member, self._batch):
                return messages
            await self._member.wake.wait()
        raise UnavailableError("this memory subscription is closed; subscribe again")

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        """What another member has taken over since is left alone."""
        if self._member.closed:
            raise UnavailableError("this memory subscription is closed; what it did not settle is received again")
        self._group.settle(self._member, messages)

    async def close(self) -> None:
        if self._member.closed:
            return
        self._member.closed = True
        self._group.leave(self._member)
        self._member.wake.set()


class MemoryListener:
    """A group of one, which is gone with it."""

    def __init__(self, subscription: Subscription, dissolve: Callable[[], None]) -> None:
        self._subscription = subscription
        self._dissolve = dissolve

    async def receive(self) -> Sequence[IncomingMessage]:
        return await self._subscription.receive()

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        await self._subscription.settle(messages)

    async def close(self) -> None:
        await self._subscription.close()
        self._dissolve()
