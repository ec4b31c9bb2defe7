"""Appends on SQLite, whose only writer needs no locks: positions are drawn in the order of commits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, or_, select, true

from cqrs_fastapi.errors import ConcurrencyError, StreamClosedError
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS, describe
from cqrs_fastapi.eventstore.records import DUE, AppendUnit, Condition, Matching, StreamAppend
from cqrs_fastapi.eventstore.repeats import RepeatedError
from cqrs_fastapi.eventstore.statements import Statements, statements_for
from cqrs_fastapi.storage.dialects import database_now, upsert
from cqrs_fastapi.storage.tables import Tables


def append_by_statements(connection: Connection, tables: Tables, unit: AppendUnit) -> dict[str, int]:
    """The same promises as the function of PostgreSQL: whatever fails does so before anything is inserted."""
    statements = statements_for(connection, tables)
    if unit.record is not None:
        _record(connection, tables, unit)
    if unit.condition is not None:
        _require(connection, tables, unit.tenant, unit.condition)
    versions = {one.stream: _advance(connection, statements, one, unit.tenant) for one in unit.appends}
    rows = [row for one in unit.appends for row in _rows(one, versions[one.stream], unit)]
    if rows:
        statements.insert_events.run_each(connection, rows)
        _tag(connection, tables, unit)
    to_send = [*(row for one in unit.appends for row in _rows_to_send(one, unit)), *_dated(connection, unit)]
    if to_send:
        statements.insert_outbox.run_each(connection, to_send)
    return versions


def _record(connection: Connection, tables: Tables, unit: AppendUnit) -> None:
    record = unit.record
    assert record is not None  # noqa: S101  # for the checker: the caller has asked
    values = {
        "tenant": unit.tenant,
        "user_id": record.user,
        "key": record.key,
        "command": record.command,
        "ordinal": record.ordinal,
        "fingerprint": record.fingerprint,
        "response": record.response,
        "created_at": unit.now,
    }
    statement = upsert(connection, tables.idempotency).values(**values).on_conflict_do_nothing()
    if connection.execute(statement).rowcount == 0:
        raise RepeatedError(record)


def _require(connection: Connection, tables: Tables, tenant: str, condition: Condition) -> None:
    events = tables.events
    matches = or_(*(_matches(tables, one) for one in condition.matching))
    query = select(func.min(events.c.position)).where(
        events.c.tenant == tenant,
        events.c.position > condition.after,
        events.c.position.not_in(condition.seen),
        matches,
    )
    position = connection.execute(query).scalar()
    if position is not None:
        raise ConcurrencyError(stream=condition.name, expected="unchanged", actual=position)


def _matches(tables: Tables, matching: Matching) -> ColumnElement[bool]:
    events, tags = tables.events, tables.event_tags
    of_type = events.c.type.in_(matching.types) if matching.types else true()
    carried = (
        exists().where(tags.c.tenant == events.c.tenant, tags.c.position == events.c.position, tags.c.tag == tag)
        for tag in matching.tags
    )
    return and_(of_type, *carried)


def _advance(connection: Connection, statements: Statements, wanted: StreamAppend, tenant: str) -> int:
    """Check the expectation and raise the version by the number of events."""
    version: int | None = None
    if wanted.expected is NO_STREAM or wanted.expected is ANY:
        version = _create(connection, statements, wanted, tenant)
    if version is None and wanted.expected is not NO_STREAM:
        version = _raise_version(connection, statements, wanted, tenant)
    if version is None:
        raise _refusal(connection, statements, wanted, tenant)
    return version


def _refusal(
    connection: Connection, statements: Statements, wanted: StreamAppend, tenant: str
) -> ConcurrencyError | StreamClosedError:
    """The error that says where the stream really is."""
    found = statements.state.rows(connection, {"of_tenant": tenant, "of_stream": wanted.stream})
    version, archived, deleted_at = found[0] if found else (0, False, None)
    if archived or deleted_at is not None:
        return StreamClosedError(wanted.stream)
    return ConcurrencyError(stream=wanted.stream, expected=describe(wanted.expected), actual=version)


def _create(connection: Connection, statements: Statements, wanted: StreamAppend, tenant: str) -> int | None:
    values = {
        "tenant": tenant,
        "stream": wanted.stream,
        "category": wanted.category,
        "version": len(wanted.events),
    }
    version: int | None = statements.create.scalar(connection, values)
    return version


def _raise_version(connection: Connection, statements: Statements, wanted: StreamAppend, tenant: str) -> int | None:
    values: dict[str, Any] = {"of_tenant": tenant, "of_stream": wanted.stream, "added": len(wanted.events)}
    version: int | None
    if wanted.expected is ANY or wanted.expected is STREAM_EXISTS:
        version = statements.raise_any.scalar(connection, values)
    else:
        version = statements.raise_exact.scalar(connection, {**values, "exact": wanted.expected})
    return version


def _tag(connection: Connection, tables: Tables, unit: AppendUnit) -> None:
    tags = {event.message_id: event.tags for one in unit.appends for event in one.events if event.tags}
    if not tags:
        return
    events = tables.events
    found = connection.execute(
        select(events.c.message_id, events.c.position).where(events.c.message_id.in_(tags))
    ).all()
    rows = [
        {"tenant": unit.tenant, "tag": tag, "position": row.position} for row in found for tag in tags[row.message_id]
    ]
    connection.execute(insert(tables.event_tags), rows)


def _rows(wanted: StreamAppend, last: int, unit: AppendUnit) -> Sequence[dict[str, Any]]:
    first = last - len(wanted.events) + 1
    return [
        {
            "message_id": event.message_id,
            "tenant": unit.tenant,
            "stream": wanted.stream,
            "version": version,
            "category": wanted.category,
            "type": event.type,
            "schema_version": event.schema_version,
            "data": event.data,
            "meta": event.metadata,
            "recorded_at": unit.now,
        }
        for version, event in enumerate(wanted.events, start=first)
    ]


def _rows_to_send(wanted: StreamAppend, unit: AppendUnit) -> Iterator[dict[str, Any]]:
    for event in wanted.events:
        if event.sending is not None:
            topic, bucket, time = event.sending
            yield {
                "id": event.message_id,
                "aggregatetype": wanted.category,
                "aggregateid": wanted.stream,
                "type": event.type,
                "topic": topic,
                "key": wanted.stream,
                "bucket": bucket,
                "headers": event.metadata,
                "payload": event.data.encode(),
                "attempts": 0,
                "available_at": DUE,
                "tenant": unit.tenant,
                "created_at": time,
            }


def _dated(connection: Connection, unit: AppendUnit) -> Iterator[Mapping[str, Any]]:
    """The rows of the outbox that are no stored events; those with a delay are due by the database's clock."""
    for row in unit.outbox:
        seconds = row.get("delay")
        if seconds is None:
            yield row
        else:
            due = connection.execute(select(database_now(connection, after=timedelta(seconds=seconds)))).scalar_one()
            yield {**row, "available_at": due}
