"""The pieces of one consumer in one partition: keys side by side, each key in its order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from cqrs_fastapi.inbox.receiver import Piece, Receiver
from cqrs_fastapi.inbox.watermark import Entry

Key = tuple[bytes | None, int]


@dataclass(slots=True, eq=False)
class Item:
    """A piece that waits for its turn. One that was left over by a batch is settled `alone`."""

    piece: Piece
    entry: Entry
    alone: bool = False

    @property
    def key(self) -> Key:
        """Messages without a key have no order, so each is a key of its own."""
        message = self.piece.message
        return (None, message.offset) if message.key is None else (message.key, 0)

    @property
    def may_share(self) -> bool:
        return self.piece.may_share and not self.alone


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many keys of a partition are worked on at once, and how many messages one transaction settles at most."""

    keys: int
    batch: int


class Track:
    """A key is worked on by one task at a time. What may share a transaction waits while one is under way, and goes
    together into the next; a key that takes long holds up nobody else.
    """

    def __init__(
        self,
        receiver: Receiver,
        bounds: Bounds,
        stop: asyncio.Event,
        ended: Callable[[Entry], None],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._receiver = receiver
        self._bounds = bounds
        self._stop = stop
        self._ended = ended
        self._start = start
        self._waiting: dict[Key, deque[Item]] = {}
        self._busy: set[Key] = set()
        self._shared: deque[Key] = deque()
        self._single: deque[Key] = deque()
        self._singles = 0
        self._is_sharing = False

    def add(self, item: Item) -> None:
        """Behind those of its key. Call `fill` after the last."""
        key = item.key
        known = self._waiting.get(key)
        if known is None:
            self._waiting[key] = deque((item,))
            if key not in self._busy:
                self._queue(key)
        else:
            known.append(item)

    def fill(self) -> None:
        """Start whatever may be started now."""
        while self._single and self._singles < self._bounds.keys and not self._stop.is_set():
            self._begin_single(self._single.popleft())
        if not self._shared or self._is_sharing or self._stop.is_set():
            return
        items = self._collect()
        if len(items) == 1 and self._singles < self._bounds.keys:
            self._singles += 1
            self._start(self._settle(items[0].key, items[0]))
        else:
            self._is_sharing = True
            self._start(self._settle_together(items))

    def _queue(self, key: Key) -> None:
        (self._shared if self._waiting[key][0].may_share else self._single).append(key)

    def _begin_single(self, key: Key) -> None:
        self._singles += 1
        self._start(self._settle(key, self._next(key)))

    def _next(self, key: Key) -> Item:
        """The head of a key, which is busy from now on."""
        waiting = self._waiting[key]
        item = waiting.popleft()
        if not waiting:
            del self._waiting[key]
        self._busy.add(key)
        return item

    def _collect(self) -> list[Item]:
        """As many as fit into one transaction, of the keys that have waited longest."""
        items: list[Item] = []
        while self._shared and len(items) < self._bounds.batch:
            key = self._shared.popleft()
            while len(items) < self._bounds.batch and key in self._waiting and self._waiting[key][0].may_share:
                items.append(self._next(key))
        return items

    async def _settle(self, key: Key, item: Item) -> None:
        is_settled = await item.piece.settle(self._stop)
        self._singles -= 1
        if is_settled:
            self._ended(item.entry)
            self._free(key)
            self.fill()

    async def _settle_together(self, items: Sequence[Item]) -> None:
        settled = set(await self._receiver.settle_together([item.piece for item in items], self._stop))
        self._is_sharing = False
        for item in items:
            if item.piece in settled:
                self._ended(item.entry)
        for item in reversed(items):
            if item.piece not in settled:
                item.alone = True
                self._waiting.setdefault(item.key, deque()).appendleft(item)
        for key in {item.key: None for item in items}:
            self._free(key)
        self.fill()

    def _free(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._waiting:
            self._queue(key)
