"""The assembled application: everything but its FastAPI face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.errors import ConfigurationError, NotRunningError
from cqrs_fastapi.mediation.behaviors import Behavior
from cqrs_fastapi.mediation.event_map import EventMap
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.envelopes.codecs import Codec
from cqrs_fastapi.messages.envelopes.envelope import Envelope
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.messages.upcasters import UpcasterMap
from cqrs_fastapi.outbox.outbox import Outbox
from cqrs_fastapi.outbox.queue import OutboxQueue
from cqrs_fastapi.outbox.relay import Only
from cqrs_fastapi.outbox.routing import Route, RoutingFunction
from cqrs_fastapi.personal_data.forgetting import ReadModels
from cqrs_fastapi.personal_data.key_provider import KeyProvider
from cqrs_fastapi.projections.projection import ProjectionMap
from cqrs_fastapi.remote.client import BrokerClient
from cqrs_fastapi.remote.router import BrokerRouter
from cqrs_fastapi.runtime.assembly import Blueprint
from cqrs_fastapi.runtime.container import CqrsContainer, give_settings, replace_providers
from cqrs_fastapi.runtime.dead_letters import DeadLetters
from cqrs_fastapi.runtime.engine import Engine
from cqrs_fastapi.runtime.health import Readiness
from cqrs_fastapi.runtime.log_defaults import set_log_defaults
from cqrs_fastapi.runtime.override import Override, overriding
from cqrs_fastapi.runtime.personal_data import DataSubjects
from cqrs_fastapi.runtime.streams import Streams
from cqrs_fastapi.runtime.supervisor import Supervisor
from cqrs_fastapi.runtime.topics import Topics
from cqrs_fastapi.runtime.worker import Worker
from cqrs_fastapi.scheduling.job import JobMap
from cqrs_fastapi.settings import ALL_WORKERS, Settings, WorkerName
from cqrs_fastapi.storage.database import Database

T = TypeVar("T")


class Application:
    """Bind handlers, projections, jobs and upcasters; then open it. `handles`, `on` and `job` bind in own maps."""

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        requests: RequestMap | None = None,
        events: EventMap | None = None,
        container: CqrsContainer | None = None,
        broker: Broker | None = None,
        key_provider: KeyProvider | None = None,
        behaviors: Sequence[Behavior] = (),
        route: RoutingFunction = Route.of,
        envelopes: Mapping[str, Envelope] | None = None,
        codecs: Mapping[type[AnyEvent], Codec] | None = None,
    ) -> None:
        """Nothing is read, opened or checked here. `settings`, `broker` and `key_provider` replace the container's;
        `route` says for each class of events which topic it goes to, see `Route`; `envelopes` are the forms of messages
        by their topics, `codecs` those of data by their events.
        """
        self.container: Any = container if container is not None else CqrsContainer()
        give_settings(self.container)
        replace_providers(self.container, settings=settings, broker=broker, key_provider=key_provider)
        self.requests = RequestMap()
        self.events = EventMap()
        self.projections = ProjectionMap()
        self.upcasters = UpcasterMap()
        self.jobs = JobMap()
        self.brokers = BrokerRouter()
        if requests is not None:
            self.requests.include(requests)
        if events is not None:
            self.events.include(events)
        self.handles = self.requests.handles
        self.on = self.events.on
        self.job = self.jobs.job
        self._behaviors = tuple(behaviors)
        self._route = route
        self._envelopes = dict(envelopes or {})
        self._codecs = dict(codecs or {})
        self._registered: list[type] = []
        self._read_models = ReadModels()
        self._overrides: dict[Any, Any] = {}
        self._engine: Engine | None = None
        self._supervisor: Supervisor | None = None

    @property
    def settings(self) -> Settings:
        """The container's settings, read from the environment when first asked for."""
        settings: Settings = self.container.settings()
        return settings

    @property
    def broker(self) -> Broker:
        """The container's broker; give it to a second application in the process to share `memory://`."""
        broker: Broker = self.container.broker()
        return broker

    @property
    def database(self) -> Database:
        database: Database = self.container.database()
        return database

    @property
    def mediator(self) -> RequestMediator:
        """The application's own mediator. Raises NotRunningError before `open` and after `close`."""
        return self.engine.mediator

    @property
    def event_mediator(self) -> EventMediator:
        """The application's own mediator for events. Raises NotRunningError before `open` and after `close`."""
        return self.engine.event_mediator

    @property
    def broker_client(self) -> BrokerClient:
        """Sends to other services. Raises NotRunningError before `open` and after `close`."""
        return self.engine.broker_client

    @property
    def streams(self) -> Streams:
        """Archives, truncates and deletes streams. Raises NotRunningError before `open` and after `close`."""
        return Streams(self.engine)

    def outbox(self, session: AsyncSession, /) -> Outbox:
        """The outbox of a session of your own, on the application's database: what is added is inserted just before the
        session's commit, after its flush. See `Outbox`. Raises NotRunningError before `open` and after `close`.
        """
        return self.engine.office.outbox(session)

    @property
    def outbox_queue(self) -> OutboxQueue:
        """What waits in the outbox, to be looked at and put right. The database alone must be open."""
        return OutboxQueue(self.database, self.settings, self.container.clock(), self.container.ids())

    @property
    def topics(self) -> Topics:
        """The topics of the application, to be checked and created. Nothing of it need be open."""
        engine = self._engine_to_be()
        return Topics(engine.broker, engine.settings, engine.topics)

    @property
    def dead_letters(self) -> DeadLetters:
        """Looks at parked messages, edits, replays and discards them. Needs what `mediator` needs."""
        return DeadLetters(lambda: self.engine)

    @property
    def registry(self) -> EventRegistry:
        """The events that it can read, also before `open`. RegistrationError if what was bound so far is wrong."""
        return self._engine_to_be().registry

    @property
    def personal_data(self) -> DataSubjects:
        """Forgets people, and is told where data of them is kept."""
        return DataSubjects(self._read_models, lambda: self.engine)

    @property
    def engine(self) -> Engine:
        """What runs between `open` and `close`."""
        if self._engine is None:
            raise NotRunningError(
                "the application is not running; in tests use `with TestClient(app)`, elsewhere "
                "`async with cqrs.running()`"
            )
        return self._engine

    @property
    def is_open(self) -> bool:
        return self._engine is not None

    def register(self, *types: type) -> None:
        """Make event classes readable that no handler names, the events of aggregates, and requests that must have a
        handler by the time the application starts.
        """
        self._registered.extend(types)

    def request_types(self) -> list[type]:
        """The requests that have a handler."""
        return [binding.request_type for binding in self.requests.bindings()]

    # A class is the closer match; the second form is for protocols and for the functions of Depends.
    @overload
    def override(self, wanted: type[T], /) -> Override[T]: ...  # pyright: ignore[reportOverlappingOverload]  # see above
    @overload
    def override(self, wanted: object, /) -> Override[object]: ...
    def override(self, wanted: Any, /) -> Override[Any]:
        """`with cqrs.override(PaymentGateway).by(fake):` gives `fake` to every handler, however it is reached."""
        return Override(wanted, partial(overriding, self._overrides, self._recompile))

    async def open(self) -> None:
        """Check all registrations, open database, broker and resources; afterwards the mediators work.

        Raises RegistrationError, SchemaBehindError and other ConfigurationErrors, each saying what to do. A database
        server or broker that is away is no error: it is waited for, and readiness tells.
        """
        if self._engine is not None:
            return
        set_log_defaults()
        engine = self._engine_to_be()
        try:
            await engine.open()
        except BaseException:
            await engine.close()
            raise
        self._engine = engine

    async def start_workers(self, names: Iterable[WorkerName] | None = None, *, only: Only | None = None) -> None:
        """Run these workers (`settings.run_in_app` by default) until `stop_workers`; a relay sends `only` that."""
        wanted = self.settings.run_in_app if names is None else tuple(names)
        if unknown := set(wanted).difference(ALL_WORKERS):
            raise ConfigurationError(f"no worker is called {min(unknown)!r}; they are {', '.join(ALL_WORKERS)}")
        self._supervisor = Supervisor(self.engine.workers(wanted, only or Only()))
        await self._supervisor.start()

    async def stop_workers(self) -> None:
        """Let workers and units of work finish what they hold, for at most `drain_timeout`; then they are cancelled."""
        if self._engine is None:
            return
        await self._engine.end(self._supervisor, self.settings.drain_timeout)
        self._supervisor = None

    async def close(self) -> None:
        """Close everything that `open` opened; harmless when nothing is open."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    @asynccontextmanager
    async def running(self, workers: Iterable[WorkerName] | None = None) -> AsyncIterator[Application]:
        """Open, run the workers, and close: for scripts, tests and a host application's lifespan."""
        await self.open()
        try:
            await self.start_workers(workers)
            try:
                yield self
            finally:
                await self.stop_workers()
        finally:
            await self.close()

    @asynccontextmanager
    async def scope(self, *, session: AsyncSession | None = None) -> AsyncIterator[Scope]:
        """One unit of work for several requests, committed at the end of the block and rolled back on an error.

        Opens the application for its duration if it is not open. With `session` the unit joins that session's
        transaction, and committing it is left to its owner.
        """
        opened_here = self._engine is None
        if opened_here:
            await self.open()
        try:
            async with self.engine.scope(session) as scope:
                yield scope
        finally:
            if opened_here:
                await self.close()

    async def readiness(self) -> Readiness:
        """What works and what does not. Never raises; takes at most about two seconds."""
        if self._engine is None:
            return Readiness(ready=False, checks=())
        states = self._supervisor.states() if self._supervisor is not None else ()
        return await self._engine.readiness(states)

    def worker(self, name: WorkerName) -> Worker:
        """A worker to be run by somebody else, for instance as a process of its own."""
        return self.engine.worker(name)

    def _engine_to_be(self) -> Engine:
        blueprint = Blueprint(
            self.requests,
            self.events,
            self.projections,
            self.jobs.jobs(),
            tuple(self._registered),
            self._behaviors,
            self.jobs.problems(),
            self.upcasters,
            self._route,
            self._envelopes,
            self._codecs,
            self.brokers,
        )
        return Engine(self.container, blueprint, self._overrides)

    def _recompile(self) -> None:
        if self._engine is not None:
            self._engine.recompile()
