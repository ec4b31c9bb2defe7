from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cqrs_fastapi import migrations
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database at the head of the migrations; the test runs once on each kind."""
    database = Database(Settings(database_url=database_url))
    await database.open()
    if database.dialect == "postgresql":
        await database.write(migrations.upgrade)
    yield database
    await database.close()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    database = Database(Settings(database_url=sqlite_url))
    await database.open()
    yield database
    await database.close()
