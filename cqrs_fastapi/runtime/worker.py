"""What runs beside the requests: the relay, the consumer, the scheduler."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Worker(Protocol):
    """Work that goes on until it is told to stop. It may be run again after it has failed."""

    @property
    def name(self) -> str:
        """How logs, readiness and the command line call it; unique within one supervisor."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop` is set and what it held is finished.

        Raising means that it failed, and so does returning before `stop` is set: its supervisor runs it again.
        Cancelled, it gives up what it holds at once, so that nothing of it is half done.
        """
        ...
