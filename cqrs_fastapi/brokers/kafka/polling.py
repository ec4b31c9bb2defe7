"""One poll of a consumer at a time, which may be left alone and taken up again without losing what it brings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition

Records = dict[TopicPartition, list[Any]]

POLL_MS = 1000
_NOWHERE = TopicPartition("", 0)


class Polling:
    """`wake` ends the present wait, since other partitions are wanted; `forget` drops what was not handed out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._task: asyncio.Task[tuple[int, Records]] | None = None
        self._woken = asyncio.Event()
        self._generation = 0
        self._cut = False

    def wake(self) -> None:
        self._woken.set()

    def forget(self) -> None:
        """For a rebalance: what was polled before it may be another member's now."""
        self._generation += 1

    async def poll(
        self, consumer: AIOKafkaConsumer, wanted: Callable[[], Collection[TopicPartition] | None]
    ) -> Records:
        """Records of the partitions that are wanted, or of all. None come after a second without any, or after `wake`.

        A poll that the caller was cancelled in goes on, and the next call has its records. Raises the errors of
        aiokafka; and KafkaConnectionError where it cancels a future of its own, which would look like a cancellation.
        """
        if self._task is None:
            self._woken.clear()
            self._cut = False
            self._task = asyncio.ensure_future(self._poll(consumer, wanted()))
        waking = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({self._task, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
        gave_up_itself = self._task.cancelled() and not self._cut
        await self._stop()
        task, self._task = self._task, None
        if gave_up_itself:
            raise KafkaConnectionError("the client gave up what was under way")
        generation, records = (self._generation, {}) if task.cancelled() else task.result()
        return records if generation == self._generation else {}

    async def close(self) -> None:
        await self._stop()
        task, self._task = self._task, None
        if task is not None and not task.cancelled():
            task.exception()  # so that nobody misses it

    async def _stop(self) -> None:
        """End the poll, if it has not ended. It may have records even so."""
        if self._task is not None and not self._task.done():
            self._cut = True
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _poll(self, consumer: AIOKafkaConsumer, wanted: Collection[TopicPartition] | None) -> tuple[int, Records]:
        # To name none means all, and a consumer that does not poll is taken for dead: so one is named that is nowhere.
        # Records of those that are not named stay where they are; aiokafka's own `pause` would throw them away.
        places = () if wanted is None else tuple(wanted) or (_NOWHERE,)
        records: Records = await consumer.getmany(*places, timeout_ms=POLL_MS, max_records=self._limit)
        return self._generation, records
