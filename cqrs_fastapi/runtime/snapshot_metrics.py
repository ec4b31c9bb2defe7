"""What a monitoring system reads about snapshots."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter

_COUNTERS: WeakKeyDictionary[CollectorRegistry, Counter] = WeakKeyDictionary()
"""A registry refuses a second metric of one name, so several applications that share a registry share its metrics."""


def count_snapshot(service: str, outcome: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Count one in `cqrs_snapshots_total{service,outcome}`."""
    if registry not in _COUNTERS:
        labels = ("service", "outcome")
        _COUNTERS[registry] = Counter(
            "cqrs_snapshots_total", "Snapshots of aggregates by what has become of them.", labels, registry=registry
        )
    _COUNTERS[registry].labels(service, outcome).inc()
