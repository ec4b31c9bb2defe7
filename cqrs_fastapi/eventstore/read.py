"""Reads one stream."""

from __future__ import annotations

from sqlalchemy import Connection, select

from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.storage.tables import Tables


def read_stream(
    connection: Connection, tables: Tables, stream: str, *, tenant: str, after: int = 0, limit: int | None = None
) -> list[StoredEvent]:
    """The events of a stream with a version above `after`, in order. A stream that does not exist is empty."""
    events = tables.events
    query = (
        select(
            events.c.position,
            events.c.message_id,
            events.c.stream,
            events.c.version,
            events.c.type,
            events.c.schema_version,
            events.c.data,
            events.c.meta,
            events.c.recorded_at,
        )
        .where(events.c.tenant == tenant, events.c.stream == stream, events.c.version > after)
        .order_by(events.c.version)
    )
    if limit is not None:
        query = query.limit(limit)
    return [StoredEvent(*row) for row in connection.execute(query)]
