"""A second handler for when the first one fails, with a breaker that spares a first one known to be failing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Generic, TypeVar

from cqrs_fastapi.mediation.handlers import RequestFunction, RequestHandler

Req = TypeVar("Req")
Res = TypeVar("Res")


@dataclass(slots=True)
class CircuitBreaker:
    """Opens after `failures` in a row, and lets an attempt through after `reset_after`. Counts in this process."""

    failures: int = 5
    reset_after: timedelta = timedelta(seconds=30)
    monotonic: Callable[[], float] = time.monotonic
    _failed: int = field(default=0, init=False)
    _opened_at: float = field(default=0.0, init=False)

    def lets_through(self) -> bool:
        """Whether the primary may be tried now. Of an open breaker's callers, one in each `reset_after` may."""
        if self._failed < self.failures:
            return True
        now = self.monotonic()
        if now - self._opened_at < self.reset_after.total_seconds():
            return False
        self._opened_at = now
        return True

    def succeeded(self) -> None:
        self._failed = 0

    def failed(self) -> None:
        self._failed += 1
        if self._failed >= self.failures:
            self._opened_at = self.monotonic()


@dataclass(frozen=True, slots=True)
class Fallback(Generic[Req, Res]):
    """`fallback` answers when `primary` raises one of `on`. Each has a unit of work of its own: what the primary had
    changed is rolled back before the fallback begins. In a nested `send` there is one unit of work for all, so the
    primary's error is raised to the caller there.
    """

    primary: type[RequestHandler[Req, Res]] | RequestFunction[Req, ..., Res]
    fallback: type[RequestHandler[Req, Res]] | RequestFunction[Req, ..., Res]
    on: tuple[type[Exception], ...]
    breaker: CircuitBreaker | None = None
