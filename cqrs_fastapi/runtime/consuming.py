"""How an application consumes from its broker: as a member of its service's group, and for each process by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.inbox.batches import Batches
from cqrs_fastapi.inbox.consumer import Consumer, Prefetch
from cqrs_fastapi.inbox.dispatches import Dispatches
from cqrs_fastapi.inbox.each_process import EachProcessReceiver
from cqrs_fastapi.inbox.event_receiver import EventReceiver
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.track import Bounds
from cqrs_fastapi.mediation.pipelines import Pipelines
from cqrs_fastapi.mediation.scope import Scope, UnitOfWorkPort
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.runtime.health import NotReadyError, Probe
from cqrs_fastapi.settings import Settings


class OffsetLostError(NotReadyError):
    """A group stands at an offset that its partition does not have: messages were lost, and nothing is skipped."""

    code = "offset_lost"


class Consuming:
    """`topics` are those of the service's group, `all_topics` also those that each process hears by itself."""

    def __init__(self, broker: Broker, settings: Settings, routing: Routing, pipelines: Pipelines) -> None:
        self._broker = broker
        self._settings = settings
        self._routing = routing
        self._consumers: tuple[Consumer, ...] = ()
        self.probe = Probe("offsets", self._look)
        self.topics = routing.topics_of(pipelines.durable)
        self._topics_of_process = routing.topics_of(pipelines.each_process)
        self.all_topics = sorted({*self.topics, *self._topics_of_process})
        for event_type, handlings in pipelines.each_process.items():
            if routing.topic_of(event_type) is None:
                raise ConfigurationError(
                    f"{handlings[0].consumer} gets {event_type.__name__} in each process, and that has no topic "
                    f"by which it would come: write class {event_type.__name__}(Event, topic=...)"
                )

    def declare(self) -> None:
        """Before anything is published."""
        self._broker.declare_group(self._settings.service, self.topics)

    def probes(self) -> list[Probe]:
        """For the process that consumes: what it may have lost."""
        return [self.probe] if self.all_topics and self._consumers else []

    def consumers(
        self,
        handlings: Handlings,
        registry: EventRegistry,
        begin: Callable[[Scope, AsyncSession], UnitOfWorkPort],
        committed: Callable[[], None],
    ) -> Sequence[Consumer]:
        """New ones, for a new run of the worker."""
        service = self._settings.service
        dispatches = Dispatches(handlings.database, handlings.kernel.clock, service)
        batches = Batches(handlings, begin, committed)
        events = EventReceiver(handlings, registry, service, batches, dispatches, self._routing.topic_of)
        mine = EachProcessReceiver(handlings, registry)
        bounds = Bounds(self._settings.consumer_keys, self._settings.consumer_batch)
        prefetch = Prefetch(self._settings.consumer_prefetch, self._settings.consumer_prefetch_bytes)
        self._consumers = (
            Consumer(self._broker, dict.fromkeys(self.topics, events), service, bounds, prefetch),
            Consumer(self._broker, dict.fromkeys(self._topics_of_process, mine), None, bounds, prefetch),
        )
        return self._consumers

    async def _look(self) -> str | None:
        lost = list(self._lost())
        if lost:
            raise OffsetLostError("; ".join(lost))
        return "no message is known to be lost"

    def _lost(self) -> Iterator[str]:
        for consumer in self._consumers:
            yield from consumer.stranded().values()
