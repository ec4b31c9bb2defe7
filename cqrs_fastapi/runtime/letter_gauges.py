"""What a monitoring system reads about messages that were parked."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from cqrs_fastapi.dead_letters.reading import Counts

_GAUGES: WeakKeyDictionary[CollectorRegistry, Gauge] = WeakKeyDictionary()
"""A registry refuses a second metric of one name, so several applications that share a registry share its metrics."""


class LetterGauges:
    """`cqrs_dead_letters{service,consumer,state}`, where `state` is `dead`, `waiting` or `behind`."""

    __slots__ = ("_gauge", "_known", "_service")

    def __init__(self, service: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._service = service
        self._gauge = _gauge_of(registry)
        self._known: set[str] = set()

    def __call__(self, counts: dict[str, Counts]) -> None:
        """A consumer that has none any more has zero of them."""
        self._known.update(counts)
        for consumer in self._known:
            found = counts.get(consumer, Counts())
            for state, number in (("dead", found.dead), ("waiting", found.waiting), ("behind", found.behind)):
                self._gauge.labels(self._service, consumer, state).set(number)


def _gauge_of(registry: CollectorRegistry) -> Gauge:
    if registry not in _GAUGES:
        told = "Messages that were parked, by what they wait for."
        labels = ("service", "consumer", "state")
        _GAUGES[registry] = Gauge("cqrs_dead_letters", told, labels, registry=registry)
    return _GAUGES[registry]
