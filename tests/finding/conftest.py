from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from catalogue import opened
from sqlalchemy import make_url

from cqrs_fastapi.storage.database import Database
from tools.servers.errors import ServerError
from tools.servers.sql import ask, create_database, drop_database


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty database that orders texts as English does, so that the order of code points comes from nowhere else; a
    plain one where the server knows no languages.
    """
    name = f"test_{secrets.token_hex(8)}"
    try:
        ask(postgres_server, f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")
        url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    except ServerError:
        url = create_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database at the head of the migrations; the test runs once on each kind."""
    database = await opened(database_url)
    yield database
    await database.close()
