"""What exists while an application is open: compiled pipelines, connections, and the workers made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.brokers.prefixed import with_prefix
from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.eventstore.repeats import StoredRecords
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.replaying import Replaying
from cqrs_fastapi.inbox.starts import Reader
from cqrs_fastapi.inbox.taking_in import take_in
from cqrs_fastapi.mediation.injection import Injector
from cqrs_fastapi.mediation.kernel import Kernel, UnitLimits
from cqrs_fastapi.mediation.providers import index
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.buckets import require_same_buckets
from cqrs_fastapi.outbox.outbox import Desk
from cqrs_fastapi.outbox.relay import Only, Relay
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.outbox.session_outbox import Office
from cqrs_fastapi.runtime.assembly import (
    Assembled,
    Blueprint,
    application_value_now,
    assemble,
    start_application_values,
)
from cqrs_fastapi.runtime.builtins import builtins_of
from cqrs_fastapi.runtime.consuming import Consuming
from cqrs_fastapi.runtime.dead_letters import letters_probe, letters_worker
from cqrs_fastapi.runtime.health import Probe, Readiness, readiness_of
from cqrs_fastapi.runtime.override import is_running_here
from cqrs_fastapi.runtime.personal_data import personal_events
from cqrs_fastapi.runtime.reading import StoreReading
from cqrs_fastapi.runtime.relaying import Relaying
from cqrs_fastapi.runtime.remote import Remote
from cqrs_fastapi.runtime.resources import start_resources, stop_resources, tried
from cqrs_fastapi.runtime.scopes import own_scope
from cqrs_fastapi.runtime.snapshot_writer import SnapshotWriter
from cqrs_fastapi.runtime.supervisor import Supervisor, WorkerState
from cqrs_fastapi.runtime.together import Together
from cqrs_fastapi.runtime.topics import TopicCreator
from cqrs_fastapi.runtime.unit import ApplicationUnitOfWork
from cqrs_fastapi.runtime.worker import Worker
from cqrs_fastapi.scheduling.retention import retention_job
from cqrs_fastapi.scheduling.scheduler import Scheduler
from cqrs_fastapi.settings import Settings, WorkerName
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.wakeups import Wakeups
from cqrs_fastapi.unit_of_work.drafts import Limits
from cqrs_fastapi.unit_of_work.services import Services
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

log = structlog.get_logger("cqrs_fastapi")

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
        self.broker: Broker = with_prefix(container.broker(), self.settings.topic_prefix)
        jobs = (*blueprint.jobs, retention_job(self.database, self.settings))
        self._blueprint = replace(blueprint, jobs=jobs)
        self.draining = False
        self._schema_checked = False
        self._exits = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._units: set[asyncio.Task[Any]] = set()
        self._probes = [Probe("database", self._ping_database), Probe("broker", self.broker.ping)]
        self._wakeups = Wakeups(self.database, self._wake_here)
        self._assembled, self._injector = self._assemble()
        envelopes = self._assembled.envelopes
        self._relaying = Relaying(
            self.database, self.broker, self.settings, self.clock, self.ids, envelopes, self._wakeups
        )
        durable = chain.from_iterable(self._assembled.compiler.pipelines.durable.values())
        self._reading = StoreReading(self.database, self.settings, self.clock, durable, self.registry, self._wakeups)
        self._routing = Routing(blueprint.route)
        self._routing.check(self.registry)
        pipelines = self._assembled.compiler.pipelines
        self._consuming = Consuming(self.broker, self.settings, self._routing, pipelines)
        self._probes += self._reading.probes()
        if self._reading.starts.readers or self._topics_sent():
            self._probes.append(letters_probe(self.database))
        self.personal = personal_events(container.key_provider(), self)
        sendable = partial(self._assembled.envelopes.require_sendable, max_bytes=self.broker.max_message_bytes)
        limits = Limits(self.settings.max_event_bytes, self.settings.max_append_events, sendable)
        self._appender = Appender(self.database)
        ring = None if self.personal is None else self.personal.ring
        self._snapshots = SnapshotWriter(self.database, self.settings.service, ring)
        self._services = Services(
            self.database, self._appender, self.registry, self._routing, limits, self._relaying.wake, self.personal
        )
        desk = Desk(self.registry, self._routing, limits.event_bytes, sendable)
        self.office = Office(
            desk, self.database, self.clock, self.ids, self.personal, limits.append_events, self._relaying.wake
        )
        self.kernel = self._kernel(self._assembled)
        self.mediator = self.kernel.mediator_of(None)
        self.event_mediator = self.kernel.event_mediator_of(None)
        self._remote = Remote(blueprint.brokers.bindings(), self.broker, self.settings, self.kernel, self._services)
        self.broker_client = self._remote.client

    @property
    def registry(self) -> EventRegistry:
        return self._assembled.registry

    @property
    def readers(self) -> Sequence[Reader]:
        """The durable handlers as the store knows them."""
        return self._reading.starts.readers

    async def open(self) -> None:
        """See `Application.open`."""
        self._loop = asyncio.get_running_loop()
        self._exits.push_async_callback(tried, self.database.close)
        await self.database.open()
        self._exits.push_async_callback(tried, self._appender.close)
        self._exits.push_async_callback(tried, self._snapshots.close)
        await self._check_schema()
        self._exits.push_async_callback(tried, self._wakeups.close)
        self._wakeups.open()
        self._exits.push_async_callback(tried, partial(stop_resources, self._container))
        await start_resources(self._container)
        await start_application_values(self._injector)
        await self.broker.open()
        # Only now: a broker that is shared counts who has opened it, and another application may still need it.
        self._exits.push_async_callback(tried, self.broker.close)
        self._exits.push_async_callback(tried, self._remote.close)
        for probe in (*self._probes, self._relaying.probe, self._consuming.probe):
            self._exits.push_async_callback(tried, probe.close)
        self._consuming.declare()
        self._remote.declare()

    async def close(self) -> None:
        """Close what was opened, in the reverse order; every step is tried, also when this is cancelled."""
        await self._exits.aclose()

    async def end(self, supervisor: Supervisor | None, limit: timedelta) -> None:
        """Let workers, and then units of work, finish what they hold, all of it within the limit."""
        self.draining = True
        loop = asyncio.get_running_loop()
        ends = loop.time() + limit.total_seconds()
        if supervisor is not None:
            await supervisor.stop(limit)
        await self.drain(max(0.0, ends - loop.time()))

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
        if self._loop is None or not self._loop.is_running() or is_running_here(self._loop):
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

    def scope(self, session: AsyncSession | None) -> AbstractAsyncContextManager[Scope]:
        """A unit of work in the caller's hands; its commit runs in a task that the caller's cancellation spares."""
        return own_scope(self.kernel, partial(self._begin, session=session))

    def workers(self, names: Sequence[WorkerName], only: Only) -> list[Worker]:
        """New workers, with the one that creates topics before them; a relay sends `only` that."""
        workers = [self.relay(only) if name == "relay" else self.worker(name) for name in names]
        return [self.topic_creator(), *workers] if workers else []

    def worker(self, name: WorkerName) -> Worker:
        """A new worker of this kind."""
        if name == "relay":
            return self.relay(Only())
        if name == "consumer":
            handlings = self._handlings()
            store = self._reading.worker(handlings, self.ids())
            events = self._consuming.consumers(handlings, self.registry, self._begin, self._committed)
            requests = self._remote.consumers(handlings)
            return Together("consumer", (store, *events, *requests, letters_worker(self.replaying())))
        return Scheduler(self._blueprint.jobs, self._assembled.jobs, self.kernel, self.database, self.settings)

    def relay(self, only: Only) -> Relay:
        """A new relay, of which readiness tells from now on."""
        return self._relaying.relay(only, self._probes)

    def topic_creator(self) -> TopicCreator:
        return TopicCreator(self.broker, self.topics() if self.settings.create_topics else [])

    def topics(self) -> list[str]:
        """Those that events are sent to or come from, without the prefix of the environment."""
        return sorted({*self._consuming.all_topics, *self._topics_sent(), *self._remote.topics})

    def replaying(self) -> Replaying:
        handlings = self._handlings()
        return Replaying(handlings, self.registry, self._remote.replays(handlings))

    def _topics_sent(self) -> list[str]:
        return self._routing.topics_of(registered.event_type for registered in self.registry)

    async def readiness(self, states: Sequence[WorkerState]) -> Readiness:
        """Database, broker and workers, asked at once."""
        return await readiness_of([*self._probes, *self._consuming.probes()], states, draining=self.draining)

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

    def _wake_here(self) -> None:
        self._reading.horizon.wake()
        self._relaying.wake_here()

    def _committed(self) -> None:
        """What several messages have recorded together can be seen from now on."""
        self._relaying.wake()
        self._reading.horizon.wake()

    def _handlings(self) -> Handlings:
        return Handlings(self.kernel, self.database, self.settings, self._assembled.envelopes, self.personal)

    async def _ping_database(self) -> None:
        await self.database.ping()
        if not self._schema_checked:
            await self.database.check_schema()
            await self.database.write(partial(require_same_buckets, tables=self.database.tables))
            await self._reading.starts.record()
            self._schema_checked = True

    async def _check_schema(self) -> None:
        try:
            await self._ping_database()
        except UnavailableError as error:
            log.warning("database_unavailable_at_start", error=str(error))
