"""The same append with the `eventsourcing` package, as its documentation has it: an aggregate made and saved."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from sqlalchemy import make_url


class Account(Aggregate):
    def __init__(self, amount: int, note: str) -> None:
        self.amount = amount
        self.note = note


class Peer:
    """Its application on PostgreSQL, in a schema that it makes; close it by leaving the block."""

    def __init__(self, url: str, threads: int, note: str) -> None:
        place = make_url(url)
        environment = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": place.database or "",
            "POSTGRES_HOST": place.host or "127.0.0.1",
            "POSTGRES_PORT": str(place.port or 5432),
            "POSTGRES_USER": place.username or "",
            "POSTGRES_PASSWORD": place.password or "",
            "POSTGRES_POOL_SIZE": str(threads),
            "POSTGRES_MAX_OVERFLOW": "0",
        }
        self._application: Application[UUID] = Application(environment)
        self._threads = ThreadPoolExecutor(threads)
        self._count = threads
        self._note = note

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._threads.shutdown()
        self._application.close()

    async def save(self, count: int) -> None:
        """So many aggregates, by all threads at once."""
        loop = asyncio.get_running_loop()
        each = count // self._count
        await asyncio.gather(*(loop.run_in_executor(self._threads, self._save, each) for _ in range(self._count)))

    def _save(self, count: int) -> None:
        for _ in range(count):
            self._application.save(Account(amount=5, note=self._note))
