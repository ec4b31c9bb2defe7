"""What an application has still to do, as its database says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from cqrs_fastapi.eventstore.checkpoints import STORE
from cqrs_fastapi.inbox.starts import Reader
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class WorkLeft:
    """How many events each durable handler has before it, and how many messages are due to be sent."""

    events: dict[str, int]
    messages: int

    def __bool__(self) -> bool:
        return self.messages > 0 or any(self.events.values())

    def __str__(self) -> str:
        parts = [f"{name} has {count} events before it" for name, count in self.events.items() if count]
        return "; ".join([*parts, *([f"{self.messages} messages wait in the outbox"] if self.messages else [])])


def work_left(connection: Connection, tables: Tables, readers: Sequence[Reader]) -> WorkLeft:
    """By one statement, so that nothing can move from one count to another while they are made."""
    outbox, events, checkpoints = tables.outbox.c, tables.events.c, tables.checkpoints.c
    due = select(func.count()).select_from(tables.outbox).where(outbox.available_at <= database_now(connection))
    counts = [
        select(func.count())
        .select_from(tables.events)
        .where(
            events.type.in_(reader.types),
            events.position
            > select(checkpoints.position)
            .where(checkpoints.projection == reader.consumer, checkpoints.partition == STORE)
            .scalar_subquery(),
        )
        for reader in readers
    ]
    row = connection.execute(select(due.scalar_subquery(), *(count.scalar_subquery() for count in counts))).one()
    return WorkLeft({reader.consumer: count for reader, count in zip(readers, row[1:], strict=True)}, row[0])
