"""What exists while an application is open: compiled pipelines, connections, and the workers made of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.eventstore.repeats import StoredRecords
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.inbox.consumer import Consumer
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.taking_in import take_in
from cqrs_fastapi.mediation.frame import Frame
from cqrs_fastapi.mediation.injection import Injector
from cqrs_fastapi.mediation.kernel import Kernel, UnitLimits
from cqrs_fastapi.mediation.providers import index
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata, enter, holder, leave
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.relay import Relay
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.runtime.assembly import (
    Assembled,
    Blueprint,
    application_value_now,
    assemble,
    start_application_values,
)
from cqrs_fastapi.runtime.builtins import builtins_of
from cqrs_fastapi.runtime.health import Check, Probe, Readiness
from cqrs_fastapi.runtime.personal_data import personal_events
from cqrs_fastapi.runtime.reading import StoreReading
from cqrs_fastapi.runtime.remote import Remote
from cqrs_fastapi.runtime.snapshot_writer import SnapshotWriter
from cqrs_fastapi.runtime.supervisor import WorkerState
from cqrs_fastapi.runtime.together import Together
from cqrs_fastapi.runtime.topics import TopicCreator
from cqrs_fastapi.runtime.unit import ApplicationUnitOfWork
from cqrs_fastapi.runtime.worker import Worker
from cqrs_fastapi.scheduling.retention import retention_job
from cqrs_fastapi.scheduling.scheduler import Scheduler
from cqrs_fastapi.settings import Settings, WorkerName
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.unit_of_work.drafts import Limits
from cqrs_fastapi.unit_of_work.services import Services
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

log = structlog.get_logger("cqrs_fastapi")

_CHECK_SECONDS = 1.5  # less than a probe waits, so that its answer names the check that hangs
_AFTER_CANCEL = 1.0


class Engine:
    """Made anew by each `open`."""

    def __init__(self, container: Any, blueprint: Blueprint, overrides: Mapping[Any, Any]) -> None:
        self._container = container
        self._overrides = overrides
        self.settings: Settings = container.settings()
        self.clock: Clock = container.clock()
        self.ids: IdFactory = container.ids()
        self.database: Database = container.database()
        self.broker: Broker = container.broker()
        jobs = (*blueprint.jobs, retention_job(self.database, self.settings))
        self._blueprint = replace(blueprint, jobs=jobs)
        self.draining = False
        self._schema_checked = False
        self._exits = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._units: set[asyncio.Task[Any]] = set()
        self._probes = [Probe("database", self._ping_database), Probe("broker", self.broker.ping)]
        self._relay: Relay | None = None
        self._assembled, self._injector = self._assemble()
        durable = chain.from_iterable(self._assembled.compiler.pipelines.durable.values())
        self._reading = StoreReading(self.database, self.settings, self.clock, durable, self.registry)
        self._probes += self._reading.probes()
        self._routing = Routing()
        self.personal = personal_events(container.key_provider(), self)
        limits = Limits(self.settings.max_event_bytes, self.settings.max_append_events)
        self._appender = Appender(self.database)
        ring = None if self.personal is None else self.personal.ring
        self._snapshots = SnapshotWriter(self.database, self.settings.service, ring)
        self._services = Services(
            self.database, self._appender, self.registry, self._routing, limits, self._wake, self.personal
        )
        self.kernel = self._kernel(self._assembled)
        self.mediator = self.kernel.mediator_of(None)
        self.event_mediator = self.kernel.event_mediator_of(None)
        self._remote = Remote(blueprint.brokers.bindings(), self.broker, self.settings, self.kernel, self._services)
        self.broker_client = self._remote.client

    @property
    def registry(self) -> EventRegistry:
        return self._assembled.registry

    async def open(self) -> None:
        """See `Application.open`."""
        self._loop = asyncio.get_running_loop()
        self._exits.push_async_callback(_tried, self.database.close)
        await self.database.open()
        self._exits.push_async_callback(_tried, self._appender.close)
        self._exits.push_async_callback(_tried, self._snapshots.close)
        await self._check_schema()
        self._exits.push_async_callback(_tried, self._stop_resources)
        await self._start_resources()
        await start_application_values(self._injector)
        await self.broker.open()
        # Only now: a broker that is shared counts who has opened it, and another application may still need it.
        self._exits.push_async_callback(_tried, self.broker.close)
        self._exits.push_async_callback(_tried, self._remote.close)
        for probe in self._probes:
            self._exits.push_async_callback(_tried, probe.close)
        self.broker.declare_group(self.settings.service, self.topics_consumed())
        self._remote.declare()

    async def close(self) -> None:
        """Close what was opened, in the reverse order; every step is tried, also when this is cancelled."""
        await self._exits.aclose()

    async def drain(self, seconds: float) -> None:
        """Wait for units of work under way. What is late is cancelled, which leaves as little as a crash would."""
        left = await self.kernel.drain(seconds)
        if left:
            log.error("units_of_work_did_not_end", left=left, seconds=seconds)
            for task in self._units:
                task.cancel()
            await asyncio.wait(set(self._units), timeout=_AFTER_CANCEL)

    def recompile(self) -> None:
        """Compile again, with the overrides of this moment. Values of the application are kept."""
        assembled, injector = self._assemble()
        if self._loop is None or not self._loop.is_running() or _is_running_here(self._loop):
            self._replace(assembled, injector)
            return

        async def replace() -> None:
            self._replace(assembled, injector)

        # A TestClient runs its app in another thread, which must never see the tables half replaced.
        asyncio.run_coroutine_threadsafe(replace(), self._loop).result()

    def _replace(self, assembled: Assembled, injector: Injector) -> None:
        known = {id(provider): name for name, provider in self._injector.application.items()}
        for name, provider in injector.application.items():
            earlier = known.get(id(provider))
            value = self._injector.namespace[earlier] if earlier is not None else application_value_now(provider)
            injector.namespace[name] = value
        compiled = assembled.compiler.attach(self.kernel)
        self.kernel.pipelines.replace(compiled)
        self._assembled.jobs.clear()
        self._assembled.jobs.update(assembled.jobs)
        self._injector = injector

    @asynccontextmanager
    async def scope(self, session: AsyncSession | None) -> AsyncIterator[Scope]:
        """A unit of work in the caller's hands; its commit runs in a task that the caller's cancellation spares."""
        scope = Scope(self.kernel, partial(self._begin, session=session), read_only=False)
        token = enter(Frame(self.kernel, holder()))
        try:
            try:
                yield scope
                await scope.unit_of_work.prepare(scope)
                scope.require_unspoiled()
            except BaseException:
                await scope.unit_of_work.rollback()
                raise
            await self.kernel.own(_commit(scope))
        except BaseException as error:
            await scope.close(error)
            raise
        finally:
            leave(token)
        await scope.close(None)

    def worker(self, name: WorkerName) -> Worker:
        """A new worker of this kind."""
        if name == "relay":
            self._relay = Relay(self.database, self.broker, self.settings, self.clock, self.ids, owner=self.ids())
            return self._relay
        if name == "consumer":
            handlings = self._handlings()
            store = self._reading.worker(handlings, self.ids())
            asked = self._remote.consumers(handlings, self.registry)
            return Together("consumer", (store, self._consumer(), *asked))
        return Scheduler(self._blueprint.jobs, self._assembled.jobs, self.kernel, self.database, self.settings)

    def _consumer(self) -> Worker:
        group = self.settings.service
        return Consumer(self.broker, self._handlings(), self.registry, group, self.topics_consumed())

    def topic_creator(self) -> Worker:
        produced = self._routing.topics_of(registered.event_type for registered in self.registry)
        topics = (
            sorted({*self.topics_consumed(), *produced, *self._remote.topics}) if self.settings.create_topics else []
        )
        return TopicCreator(self.broker, topics)

    def topics_consumed(self) -> list[str]:
        """The topics of the events that durable handlers wait for."""
        return self._routing.topics_of(self._assembled.durable)

    async def readiness(self, states: Sequence[WorkerState]) -> Readiness:
        """Database, broker and workers, asked at once."""
        found = await asyncio.gather(*(probe.ask(_CHECK_SECONDS) for probe in self._probes))
        workers = [Check(state.name, state.status == "running", state.status) for state in states]
        checks = (*found, *workers)
        return Readiness(ready=not self.draining and all(check.ok for check in checks), checks=checks)

    async def take_in(self, event: AnyEvent, message_id: UUID, metadata: Metadata | None) -> None:
        """An event from elsewhere, through the inbox; see EventMediator.handle."""
        await take_in(self._handlings(), event, message_id, metadata)

    def _assemble(self) -> tuple[Assembled, Injector]:
        injector = Injector(builtins_of(self), index(self._container), self._overrides)
        return assemble(self._blueprint, injector), injector

    def _kernel(self, assembled: Assembled) -> Kernel:
        settings = self.settings
        limits = UnitLimits(
            settings.command_timeout.total_seconds(), settings.conflict_retries, settings.max_units_of_work
        )
        pipelines = assembled.compiler.pipelines
        kernel = Kernel(self.ids, self.clock, self._begin, limits, pipelines, _tasks=self._units)
        pipelines.take_in = self.take_in
        pipelines.records = StoredRecords(self.database)
        assembled.compiler.attach(kernel)
        return kernel

    def _begin(self, scope: Scope, session: AsyncSession | None = None) -> UnitOfWork:
        return ApplicationUnitOfWork(self._services, scope, session, self._reading, self._snapshots)

    def _wake(self) -> None:
        if self._relay is not None:
            self._relay.wake()

    def _handlings(self) -> Handlings:
        return Handlings(self.kernel, self.database, self.settings, self.personal)

    async def _ping_database(self) -> None:
        await self.database.ping()
        if not self._schema_checked:
            await self.database.check_schema()
            await self._reading.starts.record()
            self._schema_checked = True

    async def _check_schema(self) -> None:
        try:
            await self._ping_database()
        except UnavailableError as error:
            log.warning("database_unavailable_at_start", error=str(error))

    async def _start_resources(self) -> None:
        starting = self._container.init_resources()
        if inspect.isawaitable(starting):
            await starting

    async def _stop_resources(self) -> None:
        stopping = self._container.shutdown_resources()
        if inspect.isawaitable(stopping):
            await stopping


async def _commit(scope: Scope) -> None:
    """Runs in a task of the kernel's: a caller who leaves meanwhile must not end the session under its own commit."""
    try:
        await scope.unit_of_work.commit()
    except BaseException:
        await scope.unit_of_work.rollback()
        raise


async def _tried(step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except Exception as error:  # noqa: BLE001  # whatever it is, the other steps must be tried
        log.error("close_failed", error=repr(error))


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
