"""Runs the application's migrations on the database of `CQRS_DATABASE_URL`, after those of the framework.

This folder has no `__init__.py`: with one, `import alembic` from the repository root would find it and not the library.

- `alembic upgrade head` brings the framework's tables to their head, then the application's.
- `alembic downgrade base` takes back the application's revisions. The framework's tables stay, with the events in them;
  `cqrs_fastapi.migrations.downgrade(connection, revision="base")` takes them away.
- `alembic check` and `alembic revision --autogenerate` look at the application's tables only.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData

from cqrs_fastapi import migrations
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from example_app.adapters.tables import metadata

# The application's tables. Your own application imports its own MetaData here instead.
target_metadata: MetaData = metadata


def include_name(name: str | None, kind: str, parents: MutableMapping[Any, Any]) -> bool:
    """Hides the framework's tables, and what is on them, from autogenerate and check."""
    table = name if kind == "table" else parents.get("table_name")
    return table is None or not migrations.is_framework_table(table, prefix=settings.table_prefix)


def changes_the_schema() -> bool:
    """Whether the command goes to a revision: `check`, `current` and `revision` only look."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def migrate(connection: Connection) -> None:
    if changes_the_schema():
        migrations.upgrade(connection, prefix=settings.table_prefix, schema=settings.database_schema)
    context.configure(
        connection=connection,
        target_metadata=target_metadata,
        include_name=include_name,
        # SQLite has it too; the driver's old mode, for which alembic leaves it off, is not used here.
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        migrations.lock(connection, prefix=settings.table_prefix, schema=settings.database_schema)
        context.run_migrations()


async def main() -> None:
    database = Database(settings)
    try:
        async with database.engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await database.close()


if context.is_offline_mode():
    raise CommandError("--sql is not supported: the framework's migrations look at the database; leave it out")
if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
settings = Settings()
asyncio.run(main())
