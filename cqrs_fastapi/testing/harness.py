"""A whole application for one test: a database that is thrown away, the broker in memory, a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

from dependency_injector import providers

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.dead_letters.parking import Letter, newest
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.requests import Request
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.settings import ALL_WORKERS, Settings, WorkerName
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.testing.clock import StandingClock
from cqrs_fastapi.testing.databases import throw_away_database
from cqrs_fastapi.testing.recording_broker import RecordingBroker
from cqrs_fastapi.testing.work_left import WorkLeft, work_left

R = TypeVar("R")

_LOOK_EVERY = 0.01
_LETTERS = 100
_WORKERS: tuple[WorkerName, ...] = tuple(name for name in ALL_WORKERS if name != "scheduler")


class Harness:
    """Runs an application as it is, with its own handlers, stores and workers; only where it runs is the test's.

    Enter it with `async with`; afterwards the application is as it was. Jobs run in none of its workers: call what they
    call. An application can be in one harness at a time.
    """

    def __init__(
        self, cqrs: Application, *, database_url: str | None = None, clock: StandingClock | None = None
    ) -> None:
        """`database_url` is that of an empty database, which is migrated; without it a file of SQLite is made."""
        self.cqrs = cqrs
        self.clock = clock or StandingClock()
        self.broker = RecordingBroker()
        self._database_url = database_url
        self._letters_known = 0
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entering:
            url = self._database_url or await self._file(entering)
            self._replace(entering, self._settings(url))
            if self.cqrs.database.dialect == "postgresql":
                await self.cqrs.database.write(upgrade)
            await entering.enter_async_context(self.cqrs.running(_WORKERS))
            self._exits = entering.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(kind, error, trace)

    @property
    def mediator(self) -> RequestMediator:
        return self.cqrs.mediator

    @property
    def event_mediator(self) -> EventMediator:
        return self.cqrs.event_mediator

    async def send(self, request: Request[R], /) -> R:
        """Have a request answered, as `RequestMediator.send` does. What follows from it is waited for by `settle`."""
        return await self.mediator.send(request)

    async def settle(self, *, seconds: float = 10.0, dead_letters: bool = False) -> None:
        """Wait until nothing is left to do: every event handled, every message sent and consumed, and all that follows
        from that. Messages that are delayed are not waited for.

        AssertionError if something is left after so many seconds, or if a message was given up meanwhile, unless the
        test wants `dead_letters`.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while left := await self._left():
            if loop.time() > ends:
                raise AssertionError(
                    f"after {seconds:g} seconds there is work left: {left}{self._told(await self._new())}"
                )
            await asyncio.sleep(_LOOK_EVERY)
        if not dead_letters and (new := await self._new()):
            raise AssertionError(f"messages were given up{self._told(new)}")

    def published(self, topic: str | None = None) -> list[OutgoingMessage]:
        """The messages that were sent, of all topics or of one, in their order."""
        return [message for message in self.broker.published if topic in {None, message.topic}]

    def published_events(self, topic: str | None = None) -> list[Any]:
        """The same as the events that a consumer would read."""
        return [event for message in self.published(topic) for event in self._read(message)]

    async def dead_letters(self) -> list[Letter]:
        """What was given up so far, the newest first, a hundred at most."""
        database = self.cqrs.database
        return await database.read(partial(newest, tables=database.tables, limit=_LETTERS))

    def _settings(self, database_url: str) -> Settings:
        """The application's own, in a hurry."""
        quick = {"relay_poll": timedelta(milliseconds=20), "subscription_poll": timedelta(milliseconds=20)}
        given = {"database_url": database_url, "broker_url": "memory://", "retry_backoff": timedelta(milliseconds=1)}
        return self.cqrs.settings.model_copy(update={**quick, **given})

    def _replace(self, exits: AsyncExitStack, settings: Settings) -> None:
        container = self.cqrs.container.providers
        values = {"clock": self.clock, "broker": self.broker, "database": Database(settings), "settings": settings}
        for name, value in values.items():
            exits.enter_context(container[name].override(providers.Object(value)))

    async def _file(self, exits: AsyncExitStack) -> str:
        folder = exits.enter_context(TemporaryDirectory(prefix="cqrs-"))
        return await exits.enter_async_context(throw_away_database(Path(folder)))

    async def _left(self) -> WorkLeft:
        database, readers = self.cqrs.database, self.cqrs.engine.readers
        return await database.read(partial(work_left, tables=database.tables, readers=readers))

    async def _new(self) -> Sequence[Letter]:
        """Those that no `settle` has spoken of."""
        letters = await self.dead_letters()
        new = letters[: len(letters) - self._letters_known]
        self._letters_known = len(letters)
        return new

    def _told(self, letters: Sequence[Letter]) -> str:
        return "".join(f"\n{one.consumer} on {one.topic}: {one.error}\n{one.traceback}" for one in letters)

    def _read(self, message: OutgoingMessage) -> Sequence[Any]:
        headers = message.headers
        return self.cqrs.engine.registry.read(headers["type"], int(headers["version"]), message.payload)
