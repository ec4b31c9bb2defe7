"""Reads all that a database has stored, of all tenants and of archived streams too, as a check that it can be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from cqrs_fastapi.errors import MessageError
from cqrs_fastapi.eventstore.decoding import events_in
from cqrs_fastapi.eventstore.read import PAGE
from cqrs_fastapi.eventstore.read_all import EVERYBODY, AllRange, read_first, read_next
from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.messages.upcasters import Key
from cqrs_fastapi.storage.database import Database

KEPT = 20
"""Failures that are kept to be told; all are counted."""


@dataclass(slots=True)
class Verdict:
    """`counts` are the events of each stored name and version; `failures` tell places and kinds, never values."""

    counts: Counter[Key] = field(default_factory=Counter)
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, stored: StoredEvent, registry: EventRegistry) -> None:
        self.counts[stored.type, stored.schema_version] += 1
        try:
            events_in(stored, registry)
        except MessageError as error:
            self.failed += 1
            if len(self.failures) < KEPT:
                self.failures.append(f"position {stored.position}, {error}")


async def verify(database: Database, registry: EventRegistry) -> Verdict:
    """Upcast and decode every event up to where nothing can appear any more. It holds at most 500 in memory.

    UnavailableError on a standby, or when the server changes meanwhile.
    """
    verdict, wanted = Verdict(), AllRange(EVERYBODY, archived=True)
    horizon, page = await database.read(
        partial(read_first, tables=database.tables, wanted=wanted, at_most=PAGE),
    )
    while page:
        for stored in page:
            verdict.add(stored, registry)
        rest = wanted.rest(page[-1])
        page = await database.read(
            partial(read_next, tables=database.tables, wanted=rest, horizon=horizon, at_most=PAGE)
        )
    return verdict
