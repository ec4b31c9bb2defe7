"""Several workers under one name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cqrs_fastapi.runtime.worker import Worker


@dataclass(frozen=True, slots=True)
class Together:
    """They run at once and end together: a failure of one is the failure of all, once the others have ended."""

    name: str
    workers: Sequence[Worker]

    async def run(self, stop: asyncio.Event) -> None:
        halt = asyncio.Event()
        running = [asyncio.ensure_future(worker.run(halt)) for worker in self.workers]
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            halt.set()
            await asyncio.wait(running)
        finally:
            late = [task for task in (*running, stopping) if task.cancel()]
            if late:
                await asyncio.wait(late)
            errors = [error for task in running if not task.cancelled() and (error := task.exception()) is not None]
        if errors:
            raise errors[0]
