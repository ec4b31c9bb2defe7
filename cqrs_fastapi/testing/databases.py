"""A database for one test: made before it, and gone after it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool


@asynccontextmanager
async def throw_away_database(folder: Path, server: str | None = None) -> AsyncIterator[str]:
    """The URL of an empty database: a file in `folder`, or one of a random name on the PostgreSQL server whose URL is
    given, which is dropped at the end together with the connections that are left open.
    """
    if server is None:
        yield f"sqlite+aiosqlite:///{folder / f'{secrets.token_hex(8)}.db'}"
        return
    url = make_url(server)
    name = f"test_{secrets.token_hex(8)}"
    await _run(url, f'CREATE DATABASE "{name}"')
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        await _run(url, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _run(server: URL, statement: str) -> None:
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text(statement))
