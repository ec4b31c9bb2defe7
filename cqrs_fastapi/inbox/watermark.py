"""How far the offset of a partition may go: up to the first message that is still being worked on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cqrs_fastapi.brokers.broker import IncomingMessage


@dataclass(slots=True, eq=False)
class Entry:
    """A message in hand, and how many works on it have not ended."""

    message: IncomingMessage
    works: int


class Watermark:
    """The messages of one partition in the order of their offsets. They may end in any order; what is passed is always
    a prefix, so that nothing that is under way is ever behind the offset.
    """

    __slots__ = ("_entries", "_passed", "bytes")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._passed: list[IncomingMessage] = []
        self.bytes = 0
        """Of the payloads in hand."""

    def __len__(self) -> int:
        """Messages in hand, also those that have ended behind one that has not."""
        return len(self._entries)

    def begin(self, message: IncomingMessage) -> Entry:
        """With one work on it, that of finding out which others there are."""
        entry = Entry(message, 1)
        self._entries.append(entry)
        self.bytes += len(message.payload)
        return entry

    @staticmethod
    def more(entry: Entry, works: int) -> None:
        """To be said while a work on it has not ended."""
        entry.works += works

    def end(self, entry: Entry) -> bool:
        """One of its works has ended; whether the mark has moved."""
        entry.works -= 1
        before = len(self._passed)
        while self._entries and self._entries[0].works == 0:
            message = self._entries.popleft().message
            self.bytes -= len(message.payload)
            self._passed.append(message)
        return len(self._passed) > before

    def take(self) -> list[IncomingMessage]:
        """What was passed since the last time."""
        passed, self._passed = self._passed, []
        return passed

    def give_back(self, messages: list[IncomingMessage]) -> None:
        """They were taken, and could not be settled with the broker."""
        self._passed[:0] = messages
