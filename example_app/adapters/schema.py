"""Brings the application's own tables to their newest revision, or says that somebody must."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from cqrs_fastapi import UnavailableError
from cqrs_fastapi.errors import SchemaBehindError
from cqrs_fastapi.storage.database import Database
from example_app.adapters.tables import metadata

SCRIPTS = Path(__file__).parents[2] / "alembic"


@dataclass(frozen=True, slots=True)
class ReadModelSchema:
    """The revision of the tables when the application started; None if the database did not answer then."""

    revision: str | None


async def read_model_schema(database: Database) -> AsyncIterator[ReadModelSchema]:
    """On SQLite, where nobody runs a migration by hand, run the chain of `alembic upgrade head`; elsewhere only look.

    It comes before the first message, in the web application and in every worker that runs as a process of its own.
    Raises SchemaBehindError.
    """
    if database.dialect == "sqlite":
        async with database.engine.begin() as connection:
            yield ReadModelSchema(await connection.run_sync(upgrade))
        return
    try:
        yield ReadModelSchema(await database.read(require_head))
    except UnavailableError:
        yield ReadModelSchema(None)


def upgrade(connection: Connection) -> str:
    """The same revisions and the same version table as those of the command line, in the connection's transaction."""
    scripts = _scripts()

    def steps(found: Any, _: MigrationContext) -> Any:
        return scripts._upgrade_revs("head", found)  # noqa: SLF001  # what alembic's own command calls

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()
    return require_head(connection)


def require_head(connection: Connection) -> str:
    """The newest revision, if the tables are there."""
    expected = _scripts().get_current_head() or ""
    found = MigrationContext.configure(connection).get_current_revision()
    if found != expected:
        raise SchemaBehindError(found=found, expected=expected)
    return expected


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(SCRIPTS))
