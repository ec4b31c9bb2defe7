"""One partition in hand: its messages are opened in their order, and handled key by key."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog

from cqrs_fastapi.brokers.broker import IncomingMessage, Place
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.inbox.handling import wait_for
from cqrs_fastapi.inbox.receiver import Piece, Receiver
from cqrs_fastapi.inbox.track import Bounds, Item, Track
from cqrs_fastapi.inbox.watermark import Entry, Watermark

log = structlog.get_logger("cqrs_fastapi")

_OPENED_AT_ONCE = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0


class Lane:
    """`moved` is called when its offset may go on, `failed` with the error of a work that should have none.

    Nothing of it blocks another lane. A dependency that is away is waited for here, with growing pauses: the lane
    fills, its partition is paused, and its offset stays where it is.
    """

    def __init__(
        self,
        place: Place,
        receiver: Receiver,
        bounds: Bounds,
        moved: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.place = place
        self.is_paused = False
        self.watermark = Watermark()
        self._receiver = receiver
        self._bounds = bounds
        self._moved = moved
        self._failed = failed
        self._stop = asyncio.Event()
        self._last = -1
        self._unopened: deque[Entry] = deque()
        self._tracks: dict[str, Track] = {}
        self._works: set[asyncio.Task[None]] = set()
        self._is_opening = False

    def add(self, messages: Iterable[IncomingMessage]) -> None:
        """Work on them when their turn comes. What is in hand already is passed over."""
        new = [message for message in messages if message.offset > self._last]
        if self._stop.is_set() or not new:
            return
        self._last = new[-1].offset
        self._unopened.extend(self.watermark.begin(message) for message in new)
        if not self._is_opening:
            self._is_opening = True
            self._start(self._open_all())

    async def drain(self) -> None:
        """Begin nothing more, and return when what was begun has ended."""
        self._stop.set()
        while self._works:
            await asyncio.wait(set(self._works))

    async def abandon(self) -> None:
        """End the waiting for what was begun; a transaction that is under way ends by itself."""
        self._stop.set()
        for work in self._works:
            work.cancel()
        await self.drain()

    async def _open_all(self) -> None:
        failures = 0
        try:
            while self._unopened and not self._stop.is_set():
                entries = [self._unopened[n] for n in range(min(len(self._unopened), _OPENED_AT_ONCE))]
                try:
                    opened = await self._receiver.open([entry.message for entry in entries])
                except UnavailableError as error:
                    failures += 1
                    log.warning("messages_not_opened", place=tuple(self.place), error=str(error))
                    await wait_for(self._stop, _pause_after(failures))
                    continue
                failures = 0
                for entry, pieces in zip(entries, opened, strict=True):
                    self._unopened.popleft()
                    self._sort(entry, pieces)
                for track in self._tracks.values():
                    track.fill()
        finally:
            self._is_opening = False

    def _sort(self, entry: Entry, pieces: Sequence[Piece]) -> None:
        self.watermark.more(entry, len(pieces))
        for piece in pieces:
            self._track(piece.consumer).add(Item(piece, entry))
        self._end(entry)

    def _track(self, consumer: str) -> Track:
        if consumer not in self._tracks:
            self._tracks[consumer] = Track(self._receiver, self._bounds, self._stop, self._end, self._start)
        return self._tracks[consumer]

    def _end(self, entry: Entry) -> None:
        if self.watermark.end(entry):
            self._moved()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._works.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)


def _pause_after(failures: int) -> float:
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * float(2 ** min(failures - 1, 10)))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
