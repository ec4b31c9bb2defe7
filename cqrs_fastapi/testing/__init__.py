"""For the tests of applications."""

from __future__ import annotations

from cqrs_fastapi.testing.clock import StandingClock
from cqrs_fastapi.testing.handler_scenarios import scenario
from cqrs_fastapi.testing.harness import Harness
from cqrs_fastapi.testing.root_events import changed, created, deleted
from cqrs_fastapi.testing.scenarios import given

__all__ = ["Harness", "StandingClock", "changed", "created", "deleted", "given", "scenario"]
