"""Appends to streams in one transaction of the caller's: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert

from cqrs_fastapi.errors import ConcurrencyError
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, describe
from cqrs_fastapi.eventstore.records import SiblingRows, StreamAppend
from cqrs_fastapi.eventstore.statements import statements_for
from cqrs_fastapi.storage.tables import Tables


def append(
    connection: Connection,
    tables: Tables,
    appends: Sequence[StreamAppend],
    siblings: Sequence[SiblingRows],
    *,
    tenant: str,
    now: datetime,
) -> dict[str, int]:
    """The new version of each stream. Raises ConcurrencyError before any event is inserted.

    1. The rows of the streams are locked, in sorted order, so that two appends cannot wait for each other.
    2. Only then positions are drawn: inside one stream they ascend with the version.
    """
    versions: dict[str, int] = {}
    for wanted in sorted(appends, key=lambda one: one.stream):
        versions[wanted.stream] = _advance(connection, tables, wanted, tenant)
    rows = [row for wanted in appends for row in _rows(wanted, versions[wanted.stream], tenant, now)]
    if rows:
        statements_for(connection, tables).insert_events.run_each(connection, rows)
    for sibling in siblings:
        if sibling.rows:
            connection.execute(insert(sibling.table), list(sibling.rows))
    return versions


def current_version(connection: Connection, tables: Tables, stream: str, *, tenant: str) -> int:
    """The version of the last event; 0 for a stream that does not exist."""
    statement = statements_for(connection, tables).version
    version: int | None = statement.scalar(connection, {"of_tenant": tenant, "of_stream": stream})
    return version or 0


def _advance(connection: Connection, tables: Tables, wanted: StreamAppend, tenant: str) -> int:
    """Lock the stream's row, check the expectation and raise the version by the number of events."""
    if wanted.expected is NO_STREAM:
        version = _create(connection, tables, wanted, tenant)
    elif wanted.expected is ANY:
        version = _create(connection, tables, wanted, tenant) or _raise_version(
            connection, tables, wanted, tenant, None
        )
    else:
        exact = None if wanted.expected is STREAM_EXISTS else wanted.expected
        version = _raise_version(connection, tables, wanted, tenant, exact)
    if version is None:
        raise conflict(connection, tables, wanted.stream, wanted.expected, tenant=tenant)
    return version


def conflict(
    connection: Connection, tables: Tables, stream: str, expected: ExpectedVersion, *, tenant: str
) -> ConcurrencyError:
    """The error that says where the stream really is."""
    actual = current_version(connection, tables, stream, tenant=tenant)
    return ConcurrencyError(stream=stream, expected=describe(expected), actual=actual)


def _create(connection: Connection, tables: Tables, wanted: StreamAppend, tenant: str) -> int | None:
    values = {
        "tenant": tenant,
        "stream": wanted.stream,
        "category": wanted.category,
        "version": len(wanted.events),
    }
    version: int | None = statements_for(connection, tables).create.scalar(connection, values)
    return version


def _raise_version(
    connection: Connection, tables: Tables, wanted: StreamAppend, tenant: str, exact: int | None
) -> int | None:
    statements = statements_for(connection, tables)
    values: dict[str, Any] = {"of_tenant": tenant, "of_stream": wanted.stream, "added": len(wanted.events)}
    version: int | None
    if exact is None:
        version = statements.raise_any.scalar(connection, values)
    else:
        version = statements.raise_exact.scalar(connection, {**values, "exact": exact})
    return version


def _rows(wanted: StreamAppend, last: int, tenant: str, now: datetime) -> list[dict[str, Any]]:
    first = last - len(wanted.events) + 1
    return [
        {
            "message_id": event.message_id,
            "tenant": tenant,
            "stream": wanted.stream,
            "version": version,
            "category": wanted.category,
            "type": event.type,
            "schema_version": event.schema_version,
            "data": event.data,
            "meta": event.metadata,
            "recorded_at": now,
        }
        for version, event in enumerate(wanted.events, start=first)
    ]
