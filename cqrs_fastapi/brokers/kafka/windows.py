"""Which offsets a member may commit: those it received itself since it owns the partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka.structs import TopicPartition

from cqrs_fastapi.brokers.broker import IncomingMessage


@dataclass(slots=True)
class _Window:
    first: int
    after: int
    committed: int


class Windows:
    """Guards commits against partitions that went to another member and perhaps came back.

    A broker takes any offset from a member of the group, also for a partition that is another's and also a lower one;
    committing what was received before a rebalance could turn a later owner's progress back.
    """

    def __init__(self) -> None:
        self._windows: dict[TopicPartition, _Window] = {}

    def received(self, messages: Iterable[IncomingMessage]) -> None:
        for message in messages:
            place = TopicPartition(message.topic, message.partition)
            window = self._windows.setdefault(place, _Window(message.offset, message.offset, message.offset))
            window.after = message.offset + 1

    def committable(self, messages: Iterable[IncomingMessage]) -> dict[TopicPartition, int]:
        """The offset after the last of these messages, for each partition that this moves forward."""
        offsets: dict[TopicPartition, int] = {}
        for message in messages:
            place = TopicPartition(message.topic, message.partition)
            window = self._windows.get(place)
            if window is not None and window.first <= message.offset < window.after:
                offsets[place] = max(offsets.get(place, 0), message.offset + 1)
        return {place: offset for place, offset in offsets.items() if offset > self._windows[place].committed}

    def committed(self, offsets: dict[TopicPartition, int]) -> None:
        for place, offset in offsets.items():
            if window := self._windows.get(place):
                window.committed = max(window.committed, offset)

    def clear(self) -> None:
        self._windows.clear()
