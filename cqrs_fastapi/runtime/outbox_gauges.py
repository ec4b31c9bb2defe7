"""What a monitoring system reads about the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from cqrs_fastapi.outbox.pending import Backlog


@dataclass(frozen=True, slots=True)
class _Gauges:
    waiting: Gauge
    oldest: Gauge
    blocked: Gauge


_GAUGES: WeakKeyDictionary[CollectorRegistry, _Gauges] = WeakKeyDictionary()
"""A registry refuses a second metric of one name, so several applications that share a registry share its metrics."""


class OutboxGauges:
    """`cqrs_outbox_waiting{service}` (at most 10,000 are counted), `cqrs_outbox_oldest_seconds{service}` and
    `cqrs_blocked_keys{service}`, as a relay saw them last.
    """

    __slots__ = ("_gauges", "_service")

    def __init__(self, service: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._service = service
        self._gauges = _gauges_of(registry)

    def __call__(self, found: Backlog) -> None:
        self._gauges.waiting.labels(self._service).set(found.waiting)
        self._gauges.oldest.labels(self._service).set(found.oldest_seconds)
        self._gauges.blocked.labels(self._service).set(found.blocked_keys)


def _gauges_of(registry: CollectorRegistry) -> _Gauges:
    if registry not in _GAUGES:
        names = ("service",)
        _GAUGES[registry] = _Gauges(
            Gauge("cqrs_outbox_waiting", "Messages that wait to be sent.", names, registry=registry),
            Gauge("cqrs_outbox_oldest_seconds", "Age of the first of them.", names, registry=registry),
            Gauge("cqrs_blocked_keys", "Keys of which nothing is sent now.", names, registry=registry),
        )
    return _GAUGES[registry]
