from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Fork
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.migrations import upgrade


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    """A SQLite file with the application's own tables; the framework makes its own."""
    file = tmp_path / "ledger.db"
    engine = create_engine(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    _tables().create_all(engine)
    engine.dispose()
    return file


@pytest.fixture
def ledger_postgres(postgres_url: str) -> str:
    """A PostgreSQL database with the framework's tables and the application's."""

    async def make() -> None:
        engine = create_async_engine(postgres_url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
            await connection.run_sync(_tables().create_all)
        await engine.dispose()

    asyncio.run(make())
    return postgres_url


@pytest.fixture
def fork(tmp_path: Path, ledger_file: Path) -> Iterator[Fork]:
    fork = Fork(tmp_path)
    yield fork
    fork.close()


def _tables() -> MetaData:
    metadata = MetaData()
    Table(
        "effects",
        metadata,
        Column("n", Integer, primary_key=True),
        Column("handler", String),
        Column("command", String),
        Column("process", Integer),
    )
    Table("ticks", metadata, Column("n", Integer, primary_key=True), Column("tick", String), Column("process", Integer))
    return metadata
