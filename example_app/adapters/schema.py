"""Brings the application's own tables to their newest revision, or says that somebody must."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from cqrs_fastapi import ConfigurationError, UnavailableError
from cqrs_fastapi.storage.database import Database
from example_app.adapters.tables import metadata

SCRIPTS = Path(__file__).parents[2] / "alembic"


@dataclass(frozen=True, slots=True)
class ShopSchema:
    """The revision of the tables when the application started; None if the database did not answer then."""

    revision: str | None


async def shop_schema(database: Database) -> ShopSchema:
    """On SQLite, where nobody runs a migration by hand, run the chain of `alembic upgrade head`; elsewhere only look.

    It comes before the first message, in the web application and in every worker that runs as a process of its own.
    Raises ConfigurationError, with what to run.
    """
    if database.dialect == "sqlite":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    try:
        return ShopSchema(await database.read(require_head))
    except UnavailableError:
        return ShopSchema(None)


def upgrade(connection: Connection) -> None:
    """The same revisions and the same version table as those of the command line, in the connection's transaction."""
    scripts = _scripts()

    def steps(found: Any, _: MigrationContext) -> Any:
        return scripts._upgrade_revs("head", found)  # noqa: SLF001  # what alembic's own command calls

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()


def require_head(connection: Connection) -> str | None:
    """The newest revision, if the tables are there."""
    expected = _scripts().get_current_head()
    found = MigrationContext.configure(connection).get_current_revision()
    if found != expected:
        raise ConfigurationError(
            f"the shop's tables are at revision {found}, the code expects {expected}; run: alembic upgrade head"
        )
    return found


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(SCRIPTS))
