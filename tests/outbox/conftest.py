from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from relay_support import ScriptedBroker, application, migrated

from cqrs_fastapi import CQRS


@pytest.fixture
def broker() -> ScriptedBroker:
    return ScriptedBroker()


@pytest.fixture
async def cqrs(database_url: str, broker: ScriptedBroker) -> AsyncIterator[CQRS]:
    """Open, with no worker at work."""
    cqrs = application(database_url, broker)
    await migrated(cqrs)
    async with cqrs.running(workers=()):
        yield cqrs
