"""The broker in memory, which may be shared by several services of one process."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from cqrs_fastapi.brokers.broker import (
    Delivery,
    IncomingMessage,
    Outcome,
    OutgoingMessage,
    Publisher,
    Revoked,
    Subscription,
    TopicState,
)
from cqrs_fastapi.brokers.memory import headers
from cqrs_fastapi.brokers.memory.config import MemoryConfig
from cqrs_fastapi.brokers.memory.publisher import MemoryPublisher
from cqrs_fastapi.brokers.memory.queues import ACKNOWLEDGED, Entry, Group, Member, Receipt
from cqrs_fastapi.brokers.memory.subscription import MemorySubscription
from cqrs_fastapi.clock import Clock, SystemClock
from cqrs_fastapi.errors import ConfigurationError, UnavailableError

# What Kafka allows, so that a topic that works here works there.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class MemoryBroker:
    """Holds a message until its groups have settled it, while its publisher waits; a topic nobody consumes keeps none.

    One object may be given to several services: it closes when as many have closed it as opened it. A group that was
    declared once stays declared, also without a member: its messages wait for the next one. It belongs to one event
    loop and is not safe to use from several threads.
    """

    def __init__(self, config: MemoryConfig | None = None, *, clock: Clock | None = None) -> None:
        self._config = config or MemoryConfig()
        self._clock = clock or SystemClock()
        self._groups: dict[str, Group] = {}
        self._offsets: defaultdict[tuple[str, int], count[int]] = defaultdict(count)
        self._spread = count()
        self._listeners = count()
        self._publishers: set[MemoryPublisher] = set()
        self._users = 0

    @property
    def name(self) -> str:
        return "memory"

    @property
    def in_process(self) -> bool:
        return True

    @property
    def max_message_bytes(self) -> int | None:
        return self._config.max_message_bytes

    async def open(self) -> None:
        self._users += 1

    async def close(self) -> None:
        """The last user's close holds what is not settled and ends every publisher and subscription."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users == 0:
            self._end()

    async def ping(self) -> None:
        if self._users == 0:
            raise UnavailableError("the memory broker is not open; write: await broker.open()")

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        """A topic is only a name here, and a name that Kafka would refuse is refused here as well."""
        await self.ping()
        for topic in topics:
            if not _is_topic(topic):
                raise ConfigurationError(f"{topic!r} is no topic name; use 1-249 letters, digits, '.', '_' or '-'")

    async def create_topics(self, topics: Sequence[str]) -> Sequence[str]:  # noqa: ARG002  # the port names it
        """A topic is only a name here, so none is missing."""
        return []

    async def describe_topics(self, topics: Sequence[str]) -> Sequence[TopicState]:
        """All exist, and keep nothing."""
        return [TopicState(topic, exists=True) for topic in topics]

    def declare_group(self, group: str, topics: Sequence[str]) -> None:
        self._groups.setdefault(group, Group()).topics.update(topics)

    async def publisher(self) -> Publisher:
        await self.ping()
        publisher = MemoryPublisher(self._deliver, self._publishers.discard)
        self._publishers.add(publisher)
        return publisher

    async def subscribe(
        self,
        group: str,
        topics: Sequence[str],
        *,
        revoked: Revoked | None = None,  # noqa: ARG002  # nothing is ever taken away from a member
    ) -> Subscription:
        return await self._member_of(group, topics, left=lambda: None)

    async def listen(self, topics: Sequence[str]) -> Subscription:
        group = f"listener {next(self._listeners)}"
        return await self._member_of(group, topics, left=partial(self._dissolve, group))

    async def _member_of(self, group: str, topics: Sequence[str], left: Callable[[], None]) -> Subscription:
        await self.ping()
        self.declare_group(group, topics)
        member = Member(topics)
        self._groups[group].members.append(member)
        self._groups[group].wake()
        return MemorySubscription(self._groups[group], member, self._config.batch, left)

    def _dissolve(self, name: str) -> None:
        """Nobody comes after a listener, so its messages must not be waited for."""
        if (group := self._groups.pop(name, None)) is not None:
            group.end()

    def _deliver(self, messages: Sequence[OutgoingMessage], receipt: Receipt) -> None:
        """Queue a whole call at once, in its order."""
        blocked: set[tuple[str, str]] = set()
        for index, message in enumerate(messages):
            key = None if message.key is None else (message.topic, message.key)
            if key in blocked:
                receipt.say(index, Outcome(Delivery.HELD, "an earlier message of its key was refused"))
            elif reason := self._refusal(message):
                receipt.say(index, Outcome(Delivery.REFUSED, reason))
                if key is not None:
                    blocked.add(key)
            else:
                self._queue(message, receipt, index)
        for group in self._groups.values():
            group.wake()

    def _queue(self, message: OutgoingMessage, receipt: Receipt, index: int) -> None:
        groups = [group for group in self._groups.values() if message.topic in group.topics]
        incoming = self._incoming(message)
        if not groups:
            receipt.say(index, ACKNOWLEDGED)
            return
        entry = Entry(incoming, receipt, index, len(groups))
        receipt.entries.append(entry)
        for group in groups:
            group.add(entry)

    def _incoming(self, message: OutgoingMessage) -> IncomingMessage:
        key = None if message.key is None else message.key.encode()
        # A checksum and not hash(): a key's partition must not depend on the process.
        partition = (next(self._spread) if key is None else zlib.crc32(key)) % self._config.partitions
        offset = next(self._offsets[message.topic, partition])
        wire = headers.to_wire(message)
        return IncomingMessage(message.topic, partition, offset, key, message.payload, wire, self._clock.now())

    def _refusal(self, message: OutgoingMessage) -> str:
        if not _is_topic(message.topic):
            return f"{message.topic!r} is no topic name; use 1-249 letters, digits, '.', '_' or '-'"
        try:
            size = headers.size(message)
        except UnicodeEncodeError as error:
            return f"its key or a header is not valid text: {error}"
        if size > self._config.max_message_bytes:
            return f"the message has {size} bytes, the limit is {self._config.max_message_bytes}"
        return ""

    def _end(self) -> None:
        for publisher in list(self._publishers):
            publisher.give_up("the memory broker closed before every group had settled the message")
        self._publishers.clear()
        for group in self._groups.values():
            for member in group.members:
                member.closed = True
            group.wake()
            group.members.clear()
            # Their publishers were told HELD and send them again, so keeping them would only repeat them.
            group.lanes.clear()


def _is_topic(name: str) -> bool:
    return _TOPIC.fullmatch(name) is not None and name not in {".", ".."}
