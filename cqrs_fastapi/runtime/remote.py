"""Commands and queries over the broker, put together for one application."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.inbox.consumer import Consumer, Prefetch
from cqrs_fastapi.inbox.dispatches import Dispatches
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.inbox.replaying import Replay
from cqrs_fastapi.inbox.track import Bounds
from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.remote.client import BrokerClient
from cqrs_fastapi.remote.line import Line
from cqrs_fastapi.remote.listener import ReplyListener
from cqrs_fastapi.remote.pending import Pending
from cqrs_fastapi.remote.receiver import RequestReceiver
from cqrs_fastapi.remote.router import To, TopicBinding
from cqrs_fastapi.remote.running import Running
from cqrs_fastapi.remote.sender import DirectSender
from cqrs_fastapi.remote.settling import Settling
from cqrs_fastapi.remote.wire import REPLIES
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.unit_of_work.services import Services

_AT_ONCE = 10_000
"""Requests of one process that wait for replies."""


class Remote:
    """The client of a process, and the consumers of what others ask of it.

    Requests have consumers and a group of their own, `<service>.requests`, so that no backlog of events holds them up.
    """

    def __init__(
        self,
        bindings: Sequence[TopicBinding],
        broker: Broker,
        settings: Settings,
        kernel: Kernel,
        services: Services,
    ) -> None:
        self._bindings = bindings
        self._broker = broker
        self._group = f"{settings.service}.requests"
        self._kernel = kernel
        self._settings = settings
        self._process = kernel.ids()
        self._wake = services.wake
        pending = Pending(self._process, _AT_ONCE)
        listener = ReplyListener(broker, f"{settings.service}{REPLIES}", pending)
        self._sender = DirectSender(broker)
        self._line = Line(broker, pending, listener, self._sender)
        self.client = BrokerClient(kernel, services.database, settings, self._line, services.wake)

    @property
    def topics(self) -> list[str]:
        """Those of all requests that are answered here."""
        return sorted({binding.topic for binding in self._bindings})

    def declare(self) -> None:
        """Before anything is published, so that no request is sent to nobody while this starts."""
        if topics := self._topics("one"):
            self._broker.declare_group(self._group, topics)

    def consumers(self, handlings: Handlings) -> Iterator[Consumer]:
        """Those that are needed: for requests to one process, and for those to all."""
        settings = self._settings
        bounds = Bounds(settings.consumer_keys, settings.consumer_batch)
        prefetch = Prefetch(settings.consumer_prefetch, settings.consumer_prefetch_bytes)
        if topics := self._topics("one"):
            dispatches = Dispatches(handlings.database, handlings.kernel.clock, self._group)
            receivers = dict.fromkeys(topics, self._receiver(handlings, dispatches))
            yield Consumer(self._broker, receivers, self._group, bounds, prefetch, "requests")
        if topics := self._topics("all"):
            receivers = dict.fromkeys(topics, self._receiver(handlings, None))
            yield Consumer(self._broker, receivers, None, bounds, prefetch, "requests to all")

    def replays(self, handlings: Handlings) -> Mapping[str, Replay]:
        """How letters of requests are replayed, by their consumers."""
        receiver = self._receiver(handlings, None)
        return {receiver.settling.consumer_of(binding): receiver.replay for binding in self._bindings}

    def _receiver(self, handlings: Handlings, dispatches: Dispatches | None) -> RequestReceiver:
        settling = Settling(handlings, self._sender, self._wake, self._process)
        running = Running(self._kernel, settling, self._settings.max_event_bytes)
        bindings = {binding.topic: binding for binding in self._bindings}
        return RequestReceiver(bindings, handlings, running, settling, dispatches)

    async def close(self) -> None:
        """Whoever waits for a reply learns that none will come."""
        await self._line.close()

    def _topics(self, to: To) -> list[str]:
        return [binding.topic for binding in self._bindings if binding.to == to]
