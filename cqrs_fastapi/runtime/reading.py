"""How the durable handlers of an application read its store."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from uuid import UUID

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.eventstore.subscription import SharedHorizon
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.lag import read_lag
from cqrs_fastapi.inbox.starts import Starts, readers_of
from cqrs_fastapi.inbox.subscriptions import Subscriptions
from cqrs_fastapi.mediation.pipelines import Handling
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.runtime.health import Probe
from cqrs_fastapi.runtime.worker import Worker
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.wakeups import Wakeups


class StoreReading:
    """`starts` says where each handler begins; `horizon` is looked at for all of them together."""

    def __init__(  # noqa: PLR0917  # parts of the application, each once
        self,
        database: Database,
        settings: Settings,
        clock: Clock,
        durable: Iterable[Handling],
        registry: EventRegistry,
        wakeups: Wakeups,
    ) -> None:
        self._database = database
        self._registry = registry
        self._service = settings.service
        self._held: dict[str, str] = {}
        self.starts = Starts(database, readers_of(durable, registry), clock)
        self.horizon = SharedHorizon(database, settings.subscription_poll, lambda: wakeups.hears)
        self._wakeups = wakeups

    def committed(self) -> None:
        """Events were committed in this process: wake the readers here and in others."""
        self.horizon.wake()
        self._wakeups.tell()

    def probes(self) -> list[Probe]:
        """How far the handlers are, for readiness; none where there are no handlers."""
        return [Probe("subscriptions", self._tell, only_informs=True)] if self.starts.readers else []

    def worker(self, handlings: Handlings, owner: UUID) -> Worker:
        # Importing the metrics looks at the process, which importing this library must not do.
        from cqrs_fastapi.runtime.subscription_gauges import SubscriptionGauges  # noqa: PLC0415

        report = SubscriptionGauges(self._service)
        return Subscriptions(handlings, self._registry, self.horizon, self.starts, owner, report, held=self._held)

    async def _tell(self) -> str:
        names = [reader.consumer for reader in self.starts.readers]
        lag = await self._database.read(partial(read_lag, tables=self._database.tables, consumers=names))
        return "; ".join([lag.told(), *(f"{name} waits {why}" for name, why in sorted(self._held.items()))])
