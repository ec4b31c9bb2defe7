"""Whose turn it is to write in this process. SQLite itself waits by polling, unfairly, with pauses of up to 100 ms."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from cqrs_fastapi.errors import UnavailableError


class WriteTurn:
    """A lock for threads and event loops alike, given on in the order it was asked for.

    It spares waiting only: another process may still hold the file's write lock, for which SQLite polls.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[Callable[[], bool]] = deque()

    def wait(self) -> None:
        """Take the turn; blocks the calling thread until it comes."""
        came = threading.Event()

        def give() -> bool:
            came.set()
            return True

        if not self._take_or_queue(give):
            came.wait()

    async def come(self, seconds: float) -> None:
        """Take the turn; a caller that is cancelled meanwhile does not get it. UnavailableError if it does not come."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if came.cancelled():
                self.leave()
            else:
                came.set_result(None)

        def give() -> bool:
            try:
                loop.call_soon_threadsafe(settle)
            except RuntimeError:
                return False  # that event loop is closed: nobody waits in it any more
            return True

        if self._take_or_queue(give):
            return
        try:
            async with asyncio.timeout(seconds):
                await came
        except TimeoutError as error:
            self._give_back(came)
            raise UnavailableError(
                f"another unit of work of this process has been writing for {seconds:.0f} seconds; do not await one "
                f"unit of work from inside another's session"
            ) from error
        except asyncio.CancelledError:
            self._give_back(came)
            raise

    def leave(self) -> None:
        """Give the turn to whoever has waited longest."""
        while True:
            with self._guard:
                if not self._waiting:
                    self._taken = False
                    return
                give = self._waiting.popleft()
            if give():
                return

    def _give_back(self, came: asyncio.Future[None]) -> None:
        """The turn may have come in the very moment in which the waiting ended."""
        if came.done() and not came.cancelled():
            self.leave()

    def _take_or_queue(self, give: Callable[[], bool]) -> bool:
        with self._guard:
            if self._taken:
                self._waiting.append(give)
                return False
            self._taken = True
            return True
