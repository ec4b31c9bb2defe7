"""What an application says about its own fitness to serve."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must work. `detail` is shown to whoever asks: no address, no credential, no driver's text."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` means that requests sent now can be served; it is False before the start and from the drain on."""

    ready: bool
    checks: tuple[Check, ...]
