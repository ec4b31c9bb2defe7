"""Reads one stream."""

from __future__ import annotations

from sqlalchemy import Connection

from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.eventstore.statements import NO_LIMIT, statements_for
from cqrs_fastapi.storage.tables import Tables


def read_stream(
    connection: Connection, tables: Tables, stream: str, *, tenant: str, after: int = 0, limit: int | None = None
) -> list[StoredEvent]:
    """The events of a stream with a version above `after`, in order. A stream that does not exist is empty."""
    at_most = NO_LIMIT if limit is None else limit
    values = {"of_tenant": tenant, "of_stream": stream, "after": after, "at_most": at_most}
    rows = statements_for(connection, tables).read.rows(connection, values)
    return [StoredEvent(*row) for row in rows]
