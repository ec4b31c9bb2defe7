"""Reads in the calling thread. A few rows by an index take SQLite 30 us; a hop to another thread and back takes 150."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine

from cqrs_fastapi.storage.driver_errors import before_commit, reading
from cqrs_fastapi.storage.sqlite_members import KeptConnection, forget_transaction

T = TypeVar("T")


class HereReader:
    """`engine` must wait for no lock: where it would have to, `read` raises UnavailableError at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._of_thread = threading.local()
        self._kept: list[KeptConnection] = []

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run a work of one statement."""
        kept = self._mine()
        try:
            with before_commit(), reading(write_instead="give the work to Database.write"):
                connection = kept.get()
                result = work(connection)
                forget_transaction(connection)
                return result
        except BaseException:
            kept.drop()
            raise

    def close(self) -> None:
        """Close the connections of all threads."""
        for kept in self._kept:
            kept.drop()

    def _mine(self) -> KeptConnection:
        """The connection of this thread: event loops in several threads may share a database."""
        kept: KeptConnection | None = getattr(self._of_thread, "kept", None)
        if kept is None:
            kept = self._of_thread.kept = KeptConnection(self._engine)
            self._kept.append(kept)
        return kept
