"""One work that waits for a thread of SQLite's, and the way back of its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection


@dataclass(slots=True, eq=False)
class Member:
    """A work of a group, with who waits for it."""

    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tell who waits, in its own event loop."""
        if self.future.cancelled():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


def settle(group: Sequence[Member]) -> None:
    """Wakes each event loop once, whatever the size of the group. Called from a thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Member]] = {}
    for member in group:
        by_loop.setdefault(member.loop, []).append(member)
    for loop, members in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, members)
        except RuntimeError:
            if not loop.is_closed():  # in a closed loop nobody waits any more
                raise


def _settle_all(members: Sequence[Member]) -> None:
    for member in members:
        member.settle()
