"""Fixtures for pytest.

A `conftest.py` names them, `pytest_plugins = ["cqrs_fastapi.testing.fixtures"]`, and has a fixture `cqrs` that gives
the application. Tests that use them are marked with `anyio`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.testing.clock import StandingClock
from cqrs_fastapi.testing.databases import throw_away_database
from cqrs_fastapi.testing.harness import Harness

SERVER = "TEST_DATABASE_URL"
"""Names a PostgreSQL server on which each test gets a database of its own; without it each test gets a file."""


@pytest.fixture
async def cqrs_database_url(tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of the test's own. Replace it to make the application's own tables there as well."""
    async with throw_away_database(tmp_path, os.environ.get(SERVER) or None) as url:
        yield url


@pytest.fixture
def cqrs_clock() -> StandingClock:
    """The clock of the test's application."""
    return StandingClock()


@pytest.fixture
async def harness(cqrs: Application, cqrs_database_url: str, cqrs_clock: StandingClock) -> AsyncIterator[Harness]:
    """The application of the fixture `cqrs`, running."""
    async with Harness(cqrs, database_url=cqrs_database_url, clock=cqrs_clock) as running:
        yield running
