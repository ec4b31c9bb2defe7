"""For the tests of applications."""

from __future__ import annotations

from cqrs_fastapi.testing.handler_scenarios import scenario
from cqrs_fastapi.testing.scenarios import given

__all__ = ["given", "scenario"]
