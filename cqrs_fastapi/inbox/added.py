"""Events that a handler was bound to when it was no longer new.

While one version of an application replaces another, the process that reads may not know of the binding yet and pass
over such events. So each process records which events its handlers are bound to, and where the store was then; who
reads next with the binding goes back once, for those events alone, over what was passed since.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, select, update

from cqrs_fastapi.eventstore.subscription import PAGE, Arrival, Selection, read_range
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

_EVENT = "event:"
"""What the partition of such a row in the checkpoints begins with; the event's stored name follows."""
_OPEN, _CLOSED = 0, 1
"""In the column `highest`: whether somebody has to go back still."""


def recorded(connection: Connection, tables: Tables, consumers: Iterable[str]) -> set[tuple[str, str]]:
    """The pairs of handler and event that are known."""
    checkpoints = tables.checkpoints
    query = select(checkpoints.c.projection, checkpoints.c.partition).where(
        checkpoints.c.projection.in_(list(consumers)), checkpoints.c.partition.startswith(_EVENT, autoescape=True)
    )
    return {(row.projection, row.partition.removeprefix(_EVENT)) for row in connection.execute(query)}


def record(
    connection: Connection, tables: Tables, consumer: str, event: str, position: int, *, is_new: bool, now: datetime
) -> None:
    """That the handler is bound to the event from this position on. With a handler that is new nothing was passed."""
    row = {
        "projection": consumer,
        "partition": f"{_EVENT}{event}",
        "position": position,
        "updated_at": now,
        "highest": _CLOSED if is_new else _OPEN,
    }
    connection.execute(upsert(connection, tables.checkpoints).on_conflict_do_nothing(), row)


def passed_over(connection: Connection, tables: Tables, consumer: str, events: Iterable[str]) -> dict[str, int]:
    """The events to go back for, and the position that each was bound at."""
    checkpoints = tables.checkpoints
    query = select(checkpoints.c.partition, checkpoints.c.position).where(
        checkpoints.c.projection == consumer,
        checkpoints.c.partition.in_([f"{_EVENT}{event}" for event in events]),
        checkpoints.c.highest == _OPEN,
    )
    return {row.partition.removeprefix(_EVENT): row.position for row in connection.execute(query)}


async def late_events(
    database: Database, bound_at: Mapping[str, int], *, through: int
) -> AsyncIterator[Sequence[Arrival]]:
    """Page by page, those of these events that were stored after they were bound."""
    at = min(bound_at.values(), default=through)
    selection = Selection(types=frozenset(bound_at))
    while at < through:
        page = await database.read(
            partial(read_range, tables=database.tables, selection=selection, after=at, through=through, limit=PAGE)
        )
        yield [arrival for arrival in page if arrival.stored.position > bound_at[arrival.stored.type]]
        at = page[-1].stored.position if len(page) == PAGE else through


def close(connection: Connection, tables: Tables, consumer: str, events: Iterable[str], *, now: datetime) -> None:
    """They were gone back for."""
    checkpoints = tables.checkpoints
    connection.execute(
        update(checkpoints)
        .where(checkpoints.c.projection == consumer)
        .where(checkpoints.c.partition.in_([f"{_EVENT}{event}" for event in events]))
        .values(highest=_CLOSED, updated_at=now)
    )
