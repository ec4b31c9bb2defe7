"""What a monitoring system reads about the durable handlers on the own store."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from cqrs_fastapi.inbox.lag import Lag


@dataclass(frozen=True, slots=True)
class _Gauges:
    behind: Gauge
    floor: Gauge


_GAUGES: WeakKeyDictionary[CollectorRegistry, _Gauges] = WeakKeyDictionary()
"""A registry refuses a second metric of one name, so several applications that share a registry share its metrics."""


class SubscriptionGauges:
    """`cqrs_subscription_lag{service,consumer}` in positions and `cqrs_oldest_append_seconds{service}`, as the process
    that owns the subscriptions saw them last.
    """

    __slots__ = ("_gauges", "_service")

    def __init__(self, service: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._service = service
        self._gauges = _gauges_of(registry)

    def __call__(self, lag: Lag) -> None:
        for consumer, behind in lag.behind.items():
            self._gauges.behind.labels(self._service, consumer).set(behind)
        self._gauges.floor.labels(self._service).set(lag.floor_seconds)


def _gauges_of(registry: CollectorRegistry) -> _Gauges:
    if registry not in _GAUGES:
        _GAUGES[registry] = _Gauges(
            Gauge(
                "cqrs_subscription_lag",
                "Positions that a durable handler is behind what is readable.",
                ("service", "consumer"),
                registry=registry,
            ),
            Gauge(
                "cqrs_oldest_append_seconds",
                "Age of the oldest append under way, which holds readers back.",
                ("service",),
                registry=registry,
            ),
        )
    return _GAUGES[registry]
