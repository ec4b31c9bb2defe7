"""What is sent to PostgreSQL, whoever sends it: SQLAlchemy, or this library by the driver alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


@asynccontextmanager
async def sent_statements(engine: AsyncEngine) -> AsyncIterator[list[str]]:
    """The statements about the framework's tables, as the driver sends them while the block lasts."""
    statements: list[str] = []
    drivers: set[Any] = set()

    def note(query: Any) -> None:
        if "cqrs_" in query.query:
            statements.append(query.query)

    def watch(adapted: Any, *_: Any) -> None:
        drivers.add(adapted.driver_connection)
        adapted.driver_connection.add_query_logger(note)

    event.listen(engine.sync_engine, "checkout", watch)
    try:
        yield statements
        await asyncio.sleep(0)  # in whose step the driver tells of the last one
    finally:
        event.remove(engine.sync_engine, "checkout", watch)
        for driver in drivers:
            driver.remove_query_logger(note)
