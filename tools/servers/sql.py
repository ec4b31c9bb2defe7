"""Statements to a PostgreSQL server from synchronous code, each on a connection of its own."""

from __future__ import annotations

import secrets

from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tools.servers.apart import run_apart
from tools.servers.errors import ServerError

_ANSWER_SECONDS = 10.0


def with_driver(url: str) -> str:
    """The URL with the one asynchronous driver that is used here, whatever it named before."""
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def version_at(url: str) -> str:
    """The version of the server. Raises `ServerError` with the reason if it does not answer."""
    return ask(url, "SHOW server_version").split()[0]


def create_database(server: str) -> str:
    """Creates an empty database with a random name on a server, and returns the URL of the new one."""
    name = f"test_{secrets.token_hex(8)}"
    ask(server, f'CREATE DATABASE "{name}"')
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def drop_database(server: str, url: str) -> None:
    """Drops the database `url` from the server `server`; connections that somebody left open are cut first."""
    ask(server, f'DROP DATABASE "{make_url(url).database}" WITH (FORCE)')


def ask(url: str, statement: str) -> str:
    """The first value of the answer, as text; the empty text if the statement has no answer."""
    try:
        return run_apart(lambda: _execute(url, statement))
    except (OSError, TimeoutError, DBAPIError) as error:
        raise ServerError(f"{statement.split(maxsplit=1)[0]} got no answer: {error}") from error


async def _execute(url: str, statement: str) -> str:
    engine = create_async_engine(
        url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args={"timeout": _ANSWER_SECONDS}
    )
    async with engine.connect() as connection:
        result = await connection.execute(text(statement))
        return str(result.scalar_one()) if result.returns_rows else ""
