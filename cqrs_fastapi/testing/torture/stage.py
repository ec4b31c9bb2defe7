"""Where a run takes place: tables with a prefix of its own, made before and dropped after, and pools to reach them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, text

from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage import schema
from cqrs_fastapi.storage.database import Database

POOLS = 4
"""Pools of the writers: a killed back end makes its pool connect anew, and the others go on."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`name` is the prefix of the tables; connections call themselves by it, and what they are for."""

    name: str
    writers: tuple[Database, ...]
    appenders: tuple[Appender, ...]
    reader: Database
    chaos: Database

    @property
    def is_postgres(self) -> bool:
        return self.reader.dialect == "postgresql"

    @property
    def application_names(self) -> tuple[str, ...]:
        """Of those back ends that may be killed."""
        return (_application(self.name, "writer"), _application(self.name, "reader"))

    @property
    def foreign_table(self) -> str:
        """A table that is none of the event store's."""
        return f"{self.name}foreign"


@asynccontextmanager
async def standing(url: str, name: str, writers: int) -> AsyncIterator[Stage]:
    """Make the tables and drop them again, whatever happens within the block."""
    stage = _stage(url, name, writers)
    databases = (*stage.writers, stage.reader, stage.chaos)
    try:
        await stage.chaos.open()
        await _make(stage)
        try:
            for database in databases[:-1]:
                await database.open()
            yield stage
        finally:
            await asyncio.shield(_clear(stage))
    finally:
        for database in databases:
            await database.close()


def settings_of(url: str, name: str, role: str, pool: int) -> Settings:
    return Settings(
        database_url=url, table_prefix=name, service=_application(name, role), pool_size=pool, pool_overflow=pool
    )


def _stage(url: str, name: str, writers: int) -> Stage:
    pool = 4 + writers // POOLS
    count = 1 if url.startswith("sqlite") else POOLS  # the one writer of SQLite is its own queue
    databases = tuple(Database(settings_of(url, name, "writer", pool)) for _ in range(count))
    reader = Database(settings_of(url, name, "reader", 3))
    chaos = Database(settings_of(url, name, "chaos", 4))
    return Stage(name, databases, tuple(Appender(one) for one in databases), reader, chaos)


def _application(name: str, role: str) -> str:
    return f"{name.rstrip('_')}-{role}"


async def _make(stage: Stage) -> None:
    def work(connection: Connection) -> None:
        schema.upgrade(connection, prefix=stage.name)
        connection.execute(text(f"CREATE TABLE {stage.foreign_table} (number INTEGER)"))

    async with stage.chaos.engine.begin() as connection:
        await connection.run_sync(work)


async def _clear(stage: Stage) -> None:
    for appender in stage.appenders:
        await appender.close()
    for database in (*stage.writers, stage.reader):
        await database.close()
    async with stage.chaos.engine.begin() as connection:
        await connection.run_sync(partial(_drop, stage=stage))


def _drop(connection: Connection, *, stage: Stage) -> None:
    schema.downgrade(connection, revision="base", prefix=stage.name)
    connection.execute(text(f"DROP TABLE {stage.foreign_table}"))
