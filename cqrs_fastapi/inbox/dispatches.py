"""Which batch a consumer has begun in a partition: what a process leaves behind that dies in the midst of one.

Whoever goes on there settles its messages one by one, so that one that kills its process is found, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Connection, bindparam, select, update

from cqrs_fastapi.brokers.broker import Place
from cqrs_fastapi.storage.dialects import upsert_of
from cqrs_fastapi.storage.prepared import Prepared, prepared
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Messages of one partition for one consumer: `count` of them, from one offset to another."""

    consumer: str
    place: Place
    first: int
    last: int
    count: int


def begin(connection: Connection, tables: Tables, dispatch: Dispatch, *, now: datetime) -> None:
    """To be committed before the first of its messages is given to a handler."""
    row = {
        "consumer": dispatch.consumer,
        "topic": dispatch.place.topic,
        "partition": dispatch.place.partition,
        "first": dispatch.first,
        "last": dispatch.last,
        "count": dispatch.count,
        "dispatched_at": now,
    }
    _beginning(tables, connection.dialect.name).run_each(connection, [row])


def finish(connection: Connection, tables: Tables, consumer: str, place: Place) -> None:
    """In the transaction of its effects, or when it left none."""
    table = tables.dispatches
    mine = (table.c.consumer == consumer, table.c.topic == place.topic, table.c.partition == place.partition)
    connection.execute(update(table).where(*mine).values(count=0))


def unfinished(connection: Connection, tables: Tables, consumer: str, place: Place) -> Dispatch | None:
    """What was begun and is not known to have ended."""
    table = tables.dispatches
    query = select(table.c.first, table.c.last, table.c["count"]).where(
        table.c.consumer == consumer,
        table.c.topic == place.topic,
        table.c.partition == place.partition,
        table.c["count"] > 0,
    )
    row: Sequence[int] | None = connection.execute(query).first()
    return None if row is None else Dispatch(consumer, place, *row)


@lru_cache(maxsize=16)
def _beginning(tables: Tables, dialect: str) -> Prepared:
    table = tables.dispatches
    statement = upsert_of(dialect, table).values({column: bindparam(column.key) for column in table.c})
    changed = {name: statement.excluded[name] for name in ("first", "last", "count", "dispatched_at")}
    keys = [table.c.consumer, table.c.topic, table.c.partition]
    return prepared(statement.on_conflict_do_update(index_elements=keys, set_=changed))
