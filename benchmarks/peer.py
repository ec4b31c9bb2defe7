"""The same with the `eventsourcing` package, as its documentation has it: aggregates made and saved, and loaded."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from sqlalchemy import make_url


class Account(Aggregate):
    def __init__(self, amount: int, note: str) -> None:
        self.amount = amount
        self.note = note


class Peer:
    """Its application on PostgreSQL, in a schema that it makes; close it by leaving the block."""

    def __init__(self, url: str, threads: int, note: str) -> None:
        self._application: Application[UUID] = Application(_environment(url, threads))
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


class Ledger(Aggregate):
    """What is loaded again: an event for each deposit."""

    def __init__(self) -> None:
        self.balance = 0

    @event("Deposited")
    def deposit(self, amount: int, note: str) -> None:  # noqa: ARG002  # the event keeps it
        self.balance += amount


class Histories:
    """The same application, to load what it has saved; close it by leaving the block."""

    def __init__(self, url: str, note: str) -> None:
        environment = {**_environment(url, 1), "IS_SNAPSHOTTING_ENABLED": "y"}
        self._application: Application[UUID] = Application(environment)
        self._note = note

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._application.close()

    def history(self, events: int, *, snapshot: bool = False, tail: int = 0) -> UUID:
        """Save an aggregate with so many events, and so many more behind its snapshot."""
        ledger = Ledger()
        self._deposit(ledger, events - 1)  # it begins with one
        if snapshot:
            self._application.take_snapshot(ledger.id)
        self._deposit(ledger, tail)
        return ledger.id

    def load(self, identifier: UUID) -> None:
        self._application.repository.get(identifier)

    def record(self, count: int) -> None:
        """So many events in memory."""
        ledger, note = Ledger(), self._note
        for number in range(count):
            ledger.deposit(number, note)

    def _deposit(self, ledger: Ledger, count: int) -> None:
        for _ in range(count):
            ledger.deposit(5, self._note)
        self._application.save(ledger)


def _environment(url: str, connections: int) -> dict[str, str]:
    place = make_url(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": place.database or "",
        "POSTGRES_HOST": place.host or "127.0.0.1",
        "POSTGRES_PORT": str(place.port or 5432),
        "POSTGRES_USER": place.username or "",
        "POSTGRES_PASSWORD": place.password or "",
        "POSTGRES_POOL_SIZE": str(connections),
        "POSTGRES_MAX_OVERFLOW": "0",
    }
