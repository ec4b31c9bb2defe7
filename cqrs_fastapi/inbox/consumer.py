"""The consumer: receives messages, has them handled partition by partition, and lets the offsets pass what is settled.

Receiving never waits for handling, so that a member is not taken for dead while it works. What it holds is bounded: a
partition that holds its share is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any

import structlog

from cqrs_fastapi.brokers.broker import Broker, IncomingMessage, Place, Subscription
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.inbox.handling import wait_for
from cqrs_fastapi.inbox.lane import Lane
from cqrs_fastapi.inbox.receiver import Receiver
from cqrs_fastapi.inbox.track import Bounds

log = structlog.get_logger("cqrs_fastapi")

_PAUSE_WHILE_AWAY = 0.5


@dataclass(frozen=True, slots=True)
class Prefetch:
    """What a consumer has in hand at most, shared equally by its partitions; a share is one message at least."""

    messages: int
    bytes: int


@dataclass(slots=True)
class Consumer:
    """One member of a consumer group, with a receiver for each topic. Without a group it hears all that is published
    while it runs.
    """

    broker: Broker
    receivers: Mapping[str, Receiver]
    group: str | None
    bounds: Bounds
    prefetch: Prefetch
    name: str = "consumer"
    _subscription: Subscription | None = None
    _lanes: dict[Place, Lane] = field(default_factory=dict)
    _late: set[Lane] = field(default_factory=set)
    """Given up before their work had ended."""
    _progress: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: asyncio.Future[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set. What was begun is finished and settled, the rest is received again."""
        if not self.receivers:
            await stop.wait()
            return
        self._failure = asyncio.get_running_loop().create_future()
        subscription = await self._subscribe(stop)
        if subscription is None:
            return
        self._subscription = subscription
        working = [
            asyncio.ensure_future(self._receive(subscription)),
            asyncio.ensure_future(self._settle(subscription)),
        ]
        stopping = asyncio.ensure_future(stop.wait())
        ends: set[asyncio.Future[Any]] = {*working, stopping, self._failure}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            working[0].cancel()  # else more would come for partitions that are being finished
            await asyncio.wait({working[0]})
            await self._give_up(list(self._lanes))
        finally:
            await self._end([*working, stopping], subscription)
        for task in (*working, self._failure):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def stranded(self) -> Mapping[Place, str]:
        """Partitions that wait for somebody's decision, and why."""
        return {} if self._subscription is None else self._subscription.stranded()

    async def _subscribe(self, stop: asyncio.Event) -> Subscription | None:
        """A broker that is away at the start is waited for."""
        while not stop.is_set():
            try:
                topics = sorted(self.receivers)
                if self.group is None:
                    return await self.broker.listen(topics)
                return await self.broker.subscribe(self.group, topics, revoked=self._give_up)
            except UnavailableError as error:
                log.warning("broker_unavailable", worker=self.name, error=str(error))
                await wait_for(stop, _PAUSE_WHILE_AWAY)
        return None

    async def _end(self, tasks: Sequence[asyncio.Task[Any]], subscription: Subscription) -> None:
        self._subscription = None
        for task in tasks:
            task.cancel()
        for lane in (*self._lanes.values(), *self._late):
            await lane.abandon()
        self._lanes.clear()
        self._late.clear()
        await asyncio.wait(tasks)
        await subscription.close()

    async def _receive(self, subscription: Subscription) -> None:
        while True:
            try:
                messages = await subscription.receive()
            except UnavailableError as error:
                log.warning("broker_unavailable", worker=self.name, error=str(error))
                await asyncio.sleep(_PAUSE_WHILE_AWAY)
                continue
            for place, part in groupby(sorted(messages, key=attrgetter("place")), key=attrgetter("place")):
                self._lane(place).add(part)
            self._hold(subscription)

    def _lane(self, place: Place) -> Lane:
        if place not in self._lanes:
            self._lanes[place] = Lane(place, self.receivers[place.topic], self.bounds, self._moved, self._failed)
        return self._lanes[place]

    def _hold(self, subscription: Subscription) -> None:
        """Pause the partitions that hold their share, and resume those that hold less than half of it."""
        for lane in self._lanes.values():
            held = self._held(lane)
            if not lane.is_paused and held >= 1.0:
                lane.is_paused = True
                subscription.pause(lane.place)
            elif lane.is_paused and held < 0.5:  # noqa: PLR2004  # a half
                lane.is_paused = False
                subscription.resume(lane.place)

    def _held(self, lane: Lane) -> float:
        """Of its share."""
        mark, lanes = lane.watermark, len(self._lanes)
        messages, size = max(1.0, self.prefetch.messages / lanes), max(1.0, self.prefetch.bytes / lanes)
        return max(len(mark) / messages, mark.bytes / size)

    def _moved(self) -> None:
        self._progress.set()

    def _failed(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _settle(self, subscription: Subscription) -> None:
        """Whatever has been passed meanwhile goes into one commit."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            self._hold(subscription)
            try:
                await self._settle_lanes(subscription, list(self._lanes.values()))
            except UnavailableError as error:
                log.warning("broker_unavailable", worker=self.name, error=str(error))
                await asyncio.sleep(_PAUSE_WHILE_AWAY)
                self._progress.set()

    async def _settle_lanes(self, subscription: Subscription, lanes: Iterable[Lane]) -> None:
        taken = [(lane, part) for lane in lanes if (part := lane.watermark.take())]
        passed: list[IncomingMessage] = [message for _, part in taken for message in part]
        if not passed:
            return
        try:
            await subscription.settle(passed)
        except BaseException:
            for lane, part in taken:
                lane.watermark.give_back(part)
            raise

    async def _give_up(self, places: Collection[Place]) -> None:
        """Finish what was begun in these partitions and settle it; they may be another member's when this returns.

        Whoever waits for it may give up waiting: then what ends later is not settled.
        """
        lanes = [lane for place in places if (lane := self._lanes.pop(place, None)) is not None]
        subscription = self._subscription
        self._late.update(lanes)
        finished = False
        try:
            await asyncio.gather(*(lane.drain() for lane in lanes))
            self._late.difference_update(lanes)
            finished = True
            if subscription is not None:
                await self._settle_lanes(subscription, lanes)
        except UnavailableError as error:
            log.warning("broker_unavailable", worker=self.name, error=str(error))
        finally:
            await asyncio.gather(
                *(self.receivers[lane.place.topic].give_up(lane.place, is_finished=finished) for lane in lanes)
            )
