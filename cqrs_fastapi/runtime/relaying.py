"""The relay of an application: what wakes it, and what it tells to people and monitoring systems."""

from __future__ import annotations

from functools import partial

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.clock import Clock
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.outbox.pending import backlog
from cqrs_fastapi.outbox.relay import Only, Relay, Surroundings
from cqrs_fastapi.runtime.health import NotReadyError, Probe
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.wakeups import Wakeups


class Relaying:
    """`probe` tells how much waits; not ready while the relay of this process has a topic that nobody knows."""

    def __init__(  # noqa: PLR0917  # parts of the application, each once
        self,
        database: Database,
        broker: Broker,
        settings: Settings,
        clock: Clock,
        ids: IdFactory,
        envelopes: Envelopes,
        wakeups: Wakeups,
    ) -> None:
        self._database = database
        self._broker = broker
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._envelopes = envelopes
        self._wakeups = wakeups
        self._relay: Relay | None = None
        self.probe = Probe("outbox", self._tell, only_informs=True)

    def relay(self, only: Only, probes: list[Probe]) -> Relay:
        """A new relay; from now on it is the one that is woken, and readiness tells of it by these probes."""
        if self.probe not in probes:
            probes.append(self.probe)
        # Importing the metrics looks at the process, which importing this library must not do.
        from cqrs_fastapi.runtime.outbox_gauges import OutboxGauges  # noqa: PLC0415

        wakeups = self._wakeups
        around = Surroundings(lambda: wakeups.hears, OutboxGauges(self._settings.service), wakeups.tell)
        self._relay = Relay(
            self._database,
            self._broker,
            self._settings,
            self._clock,
            self._ids,
            self._ids(),
            self._envelopes,
            only=only,
            around=around,
        )
        return self._relay

    def wake(self) -> None:
        """Something to be sent was committed in this process."""
        self._wakeups.tell()
        self.wake_here()

    def wake_here(self) -> None:
        """Something was committed, perhaps by another process, which has told of it."""
        if self._relay is not None:
            self._relay.wake()

    async def _tell(self) -> str:
        unknown = [] if self._relay is None else self._relay.unknown_topics()
        if unknown:
            raise NotReadyError(f"the broker does not know {', '.join(unknown)}: create what is missing")
        found = await self._database.read(partial(backlog, tables=self._database.tables))
        return found.told()
