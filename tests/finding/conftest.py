from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from catalogue import opened

from cqrs_fastapi.storage.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database at the head of the migrations; the test runs once on each kind."""
    database = await opened(database_url)
    yield database
    await database.close()
