from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cqrs_fastapi import migrations
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database at the head of the migrations; the test runs once on each kind."""
    database = await opened(database_url)
    yield database
    await database.close()


@pytest.fixture
async def both_databases(sqlite_url: str, postgres_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """SQLite and PostgreSQL side by side."""
    pair = await opened(sqlite_url), await opened(postgres_url)
    yield pair
    for database in pair:
        await database.close()


async def opened(url: str) -> Database:
    database = Database(Settings(database_url=url))
    await database.open()
    if database.dialect == "postgresql":
        await database.write(migrations.upgrade)
    return database
