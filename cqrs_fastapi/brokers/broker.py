"""The port to a broker. Every adapter has the same inside and passes `cqrs_fastapi.testing.contracts.broker`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """What a relay hands over. Messages with one key are kept in order; None lets the broker spread them."""

    message_id: UUID
    topic: str
    key: str | None
    payload: bytes
    headers: Mapping[str, str]


class Place(NamedTuple):
    """One partition of a topic: within it, messages are in order."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """What a consumer receives: nothing of it is trusted or decoded yet."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    payload: bytes
    headers: Mapping[str, bytes]
    sent_at: datetime

    @property
    def place(self) -> Place:
        return Place(self.topic, self.partition)


Revoked = Callable[[Collection[Place]], Awaitable[None]]
"""Called before partitions are given up, and waited for, though not for ever: what is settled until it returns counts.
After it nothing of these partitions can be settled. It may be called for partitions of which nothing was received.
"""


class Delivery(Enum):
    """What became of an outgoing message."""

    ACKNOWLEDGED = "acknowledged"
    HELD = "held"
    """Not sent, or its fate is unknown: send it again later, and nothing of its key before it."""
    UNKNOWN_TOPIC = "unknown_topic"
    """HELD, since the broker knows no such topic yet; a relay gives it up when that stays so."""
    REFUSED = "refused"
    """Never acceptable as it is (too large, not authorised, an invalid topic): sending it again cannot help."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one outgoing message, with the reason where it was not acknowledged."""

    delivery: Delivery
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker has it. What the broker does not tell, or keeps nothing of, is None."""

    name: str
    exists: bool
    partitions: int | None = None
    replication: int | None = None
    retention: timedelta | None = None
    """How long a message is kept; `timedelta.max` stands for ever."""
    max_message_bytes: int | None = None


class Publisher(Protocol):
    """Sends batches for one relay."""

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        """Send in the given order and say what became of each, in the same order. Never raises for a message.

        Only a prefix of a key is handed over: after the first message of a key that is not acknowledged, the later
        ones of that key in this batch are HELD and not sent. Raises UnavailableError if the broker is away entirely.
        """
        ...

    async def close(self) -> None:
        """Send what was handed over, then let go of the connection."""
        ...


class Subscription(Protocol):
    """One member of a consumer group. Per partition, messages come in offset order."""

    async def receive(self) -> Sequence[IncomingMessage]:
        """Wait for messages and return a bounded batch. Raises UnavailableError if the broker is away.

        To be called again and again, also while messages are being handled: a member that does not receive for long is
        taken for dead. A cancelled call loses nothing.
        """
        ...

    def pause(self, place: Place) -> None:
        """Receive nothing more of this partition, until `resume` or until it is given up. Others go on."""
        ...

    def resume(self, place: Place) -> None:
        """Receive from it again, also in a call that is waiting already."""
        ...

    async def settle(self, messages: Sequence[IncomingMessage]) -> None:
        """Let the group's offsets pass these messages; all before them in their partitions must be settled as well.

        What this member no longer owns is left alone: its next owner receives it again.
        """
        ...

    def stranded(self) -> Mapping[Place, str]:
        """Partitions that cannot go on without somebody's decision, since messages in them were lost, and why. The
        others go on.
        """
        ...

    async def close(self) -> None:
        """Leave the group. What was received and not settled is received again by somebody."""
        ...


class Broker(Protocol):
    """A connection to one broker, shared by all publishers and subscriptions of a service."""

    @property
    def name(self) -> str:
        """For people: `memory` or `kafka`."""
        ...

    @property
    def in_process(self) -> bool:
        """True if messages never leave this process, so that a relay or consumer in another one would be useless."""
        ...

    @property
    def max_message_bytes(self) -> int | None:
        """A larger message, with its key and headers, would be refused; None if there is no limit."""
        ...

    async def open(self) -> None:
        """Allocate what is needed. Does not fail because the broker is away: that is seen by `ping`."""
        ...

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Return if the broker answers within two seconds, else raise UnavailableError."""
        ...

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        """Create those that do not exist; an existing one is left as it is. UnavailableError if the broker is away."""
        ...

    async def create_topics(self, topics: Sequence[str]) -> Sequence[str]:
        """The same whatever the settings say; those that did not exist."""
        ...

    async def describe_topics(self, topics: Sequence[str]) -> Sequence[TopicState]:
        """What the broker has under these names, in their order. UnavailableError if the broker is away."""
        ...

    def declare_group(self, group: str, topics: Sequence[str]) -> None:
        """Say before anything is published that this group will consume these topics."""
        ...

    async def publisher(self) -> Publisher: ...

    async def subscribe(self, group: str, topics: Sequence[str], *, revoked: Revoked | None = None) -> Subscription:
        """Join a consumer group; it starts at the oldest message that no member of the group has settled."""
        ...

    async def listen(self, topics: Sequence[str]) -> Subscription:
        """Receive what is published to these topics from now on, in this process alone and without a group.

        What is published after the return of this call is received, also when the broker was away meanwhile, unless
        its retention has passed it. Nothing is kept for whoever stops listening, and `settle` keeps nothing either.
        Raises UnavailableError if the broker is away or a topic does not exist.
        """
        ...
