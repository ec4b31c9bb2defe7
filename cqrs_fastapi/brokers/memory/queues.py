"""What waits where: one lane per group and partition, and a receipt for every call that published.

An entry stands in the lane of every group that was declared for its topic, and its receipt learns of it when the last
of them has settled it. Nothing here awaits, so each method is one step that no other task can interrupt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from cqrs_fastapi.brokers.broker import Delivery, IncomingMessage, Outcome

ACKNOWLEDGED = Outcome(Delivery.ACKNOWLEDGED)


class Receipt:
    """The outcomes of one call of `publish`, complete when every message has one."""

    __slots__ = ("_complete", "_missing", "_outcomes", "entries")

    def __init__(self, count: int) -> None:
        self._outcomes: list[Outcome | None] = [None] * count
        self._missing = count
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.entries: list[Entry] = []

    def say(self, index: int, outcome: Outcome) -> None:
        """The first outcome counts: one that comes after the receipt was given up changes nothing."""
        if self._outcomes[index] is not None:
            return
        self._outcomes[index] = outcome
        self._missing -= 1
        if self._missing == 0 and not self._complete.done():
            self._complete.set_result(None)

    def give_up(self, reason: str) -> None:
        """Hold what has no outcome yet. What nobody has in hand is withdrawn; the rest is left to settle unseen."""
        for entry in self.entries:
            entry.withdraw()
        for index, outcome in enumerate(self._outcomes):
            if outcome is None:
                self.say(index, Outcome(Delivery.HELD, reason))

    async def outcomes(self) -> Sequence[Outcome]:
        if self._missing:
            await self._complete
        return [outcome for outcome in self._outcomes if outcome is not None]


class Entry:
    """A published message on its way through the groups."""

    __slots__ = ("_index", "_receipt", "_unsettled", "hands", "incoming", "withdrawn")

    def __init__(self, incoming: IncomingMessage, receipt: Receipt, index: int, groups: int) -> None:
        self.incoming = incoming
        self._receipt = receipt
        self._index = index
        self._unsettled = groups
        self.hands = 0
        """How many members have received it and not settled it yet."""
        self.withdrawn = False

    def settled(self) -> None:
        """One more group is done with it; the last one acknowledges it."""
        self._unsettled -= 1
        if self._unsettled == 0:
            self._receipt.say(self._index, ACKNOWLEDGED)

    def withdraw(self) -> None:
        """Never hand it out again, unless a member is at work on it right now."""
        self.withdrawn = self.withdrawn or self.hands == 0


class Member:
    """One subscription as its group sees it."""

    __slots__ = ("closed", "topics", "wake")

    def __init__(self, topics: Iterable[str]) -> None:
        self.topics = frozenset(topics)
        self.wake = asyncio.Event()
        self.closed = False


class Lane:
    """One partition of one group: what waits, and what its one holder has in hand."""

    __slots__ = ("holder", "in_hand", "ready")

    def __init__(self) -> None:
        self.ready: deque[Entry] = deque()
        self.in_hand: dict[int, Entry] = {}
        self.holder: Member | None = None

    def take(self, member: Member, limit: int) -> list[IncomingMessage]:
        """Hand the next messages to this member, in offset order."""
        taken: list[IncomingMessage] = []
        while self.ready and len(taken) < limit:
            entry = self.ready.popleft()
            if entry.withdrawn:
                continue
            entry.hands += 1
            self.holder = member
            self.in_hand[entry.incoming.offset] = entry
            taken.append(entry.incoming)
        return taken

    def settle(self, offset: int) -> None:
        """Let go of a message; when the hand is empty, another member may go on with this partition."""
        entry = self.in_hand.pop(offset, None)
        if entry is None:
            return
        entry.hands -= 1
        entry.settled()
        if not self.in_hand:
            self.holder = None

    def put_back(self) -> None:
        """What the holder did not settle stands in front again, in its order."""
        for entry in self.in_hand.values():
            entry.hands -= 1
        self.ready.extendleft(reversed(self.in_hand.values()))
        self.in_hand.clear()
        self.holder = None


class Group:
    """The members of a consumer group and the lanes they share.

    A partition belongs to one member. When the membership changes, it passes on only after its holder has settled what
    it has in hand or has left, so that joining repeats nothing.
    """

    __slots__ = ("lanes", "members", "topics")

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.members: list[Member] = []
        self.lanes: dict[tuple[str, int], Lane] = {}

    def add(self, entry: Entry) -> None:
        place = (entry.incoming.topic, entry.incoming.partition)
        self.lanes.setdefault(place, Lane()).ready.append(entry)

    def wake(self) -> None:
        for member in self.members:
            member.wake.set()

    def take(self, member: Member, limit: int) -> list[IncomingMessage]:
        """A bounded batch for this member. The lane served first moves to the end, so that none of them starves."""
        taken: list[IncomingMessage] = []
        for place, lane in list(self.lanes.items()):
            if len(taken) == limit:
                break
            if lane.ready and self._may_take(member, place, lane) and (part := lane.take(member, limit - len(taken))):
                taken += part
                self.lanes[place] = self.lanes.pop(place)
        return taken

    def settle(self, member: Member, messages: Iterable[IncomingMessage]) -> None:
        for message in messages:
            lane = self.lanes.get((message.topic, message.partition))
            if lane is not None and lane.holder is member:
                lane.settle(message.offset)
        self.wake()

    def leave(self, member: Member) -> None:
        self.members.remove(member)
        for lane in self.lanes.values():
            if lane.holder is member:
                lane.put_back()
        self.wake()

    def dissolve(self) -> None:
        """Let go of everything: what waits here counts as settled."""
        for lane in self.lanes.values():
            lane.put_back()
            for entry in lane.ready:
                entry.settled()
        self.lanes.clear()

    def _may_take(self, member: Member, place: tuple[str, int], lane: Lane) -> bool:
        if lane.holder not in {None, member}:
            return False
        topic, partition = place
        sharers = [other for other in self.members if topic in other.topics]
        return topic in member.topics and sharers[partition % len(sharers)] is member
