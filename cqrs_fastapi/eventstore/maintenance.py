"""The life of a stream after its events: archived, truncated behind a summary, deleted.

Each function is a part of a transaction and takes its locks in the order of all appends, the row of the stream first:
appends and other maintenance of the stream wait until it ends. What readers have not had is never taken from them: it
is refused while the checkpoint of any reader of the store is behind it. Appends to other streams are not waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, false, func, select, update

from cqrs_fastapi.errors import (
    ConcurrencyError,
    CqrsError,
    NotFoundError,
    StreamClosedError,
    StreamDeletedError,
)
from cqrs_fastapi.eventstore.checkpoints import STORE, last_event
from cqrs_fastapi.eventstore.expected_version import describe
from cqrs_fastapi.eventstore.snapshots import delete_snapshot
from cqrs_fastapi.storage.tables import Tables


class ReadersBehindError(CqrsError):
    """Events were not taken away, since readers have not had them yet. Nothing was changed; try again later."""

    code = "readers_behind"

    def __init__(self, *, stream: str, position: int, readers: Sequence[str]) -> None:
        self.stream, self.position, self.readers = stream, position, tuple(readers)
        super().__init__(
            f"the last of these events of stream {stream!r} is at position {position}, and these readers are behind "
            f"it: {', '.join(self.readers)}; run them until they have come there, or delete the checkpoints of those "
            "that are no more"
        )


def archive(connection: Connection, tables: Tables, stream: str, *, tenant: str) -> None:
    """Take the stream's events out of what reads all streams, and let it take no more. It stays readable by its name.

    Archiving it again changes nothing. Raises NotFoundError, StreamDeletedError and ReadersBehindError.
    """
    found = _locked(connection, tables, stream, tenant)
    if not found.archived:
        _require_read(connection, tables, _Events(tenant, stream, found.version))
        _set_archived(connection, tables, stream, tenant, archived=True)


def restore(connection: Connection, tables: Tables, stream: str, *, tenant: str) -> None:
    """Undo `archive`. Its events come back at their old positions: readers that have begun meanwhile do not see them.

    Raises NotFoundError and StreamDeletedError.
    """
    if _locked(connection, tables, stream, tenant).archived:
        _set_archived(connection, tables, stream, tenant, archived=False)


def delete_stream(connection: Connection, tables: Tables, stream: str, *, tenant: str, now: datetime) -> None:
    """Delete all events of the stream for good. A tombstone stays, so that its name is never used again.

    Raises NotFoundError, StreamDeletedError if it is one already, and ReadersBehindError.
    """
    state = _state_of(connection, tables, stream, tenant)
    connection.execute(delete(tables.root_states).where(*state))
    found = _locked(connection, tables, stream, tenant)
    _take_away(connection, tables, _Events(tenant, stream, found.version))
    row = _row(tables, stream, tenant)
    tombstone = {"deleted_at": now, "truncated_before": found.version + 1}
    connection.execute(update(tables.streams).where(*row).values(tombstone))


def truncate(connection: Connection, tables: Tables, stream: str, *, tenant: str, version: int) -> None:
    """Delete the events up to `version`, the stream's last one; the caller appends a summary of them as the next.

    It must do so in the same transaction: this comes first only so that the append, which holds all readers back while
    it is not committed, takes its positions after the long work. Raises NotFoundError, StreamDeletedError,
    StreamClosedError for an archived stream, ConcurrencyError if it is not at this version, and ReadersBehindError.
    """
    state = _state_of(connection, tables, stream, tenant)
    connection.execute(update(tables.root_states).where(*state).values(version=version + 1))
    found = _locked(connection, tables, stream, tenant)
    if found.archived:
        raise StreamClosedError(stream)
    if found.version != version:
        # What came meanwhile is not in the summary: whoever made it has to make another.
        raise ConcurrencyError(stream=stream, expected=describe(version), actual=found.version, retryable=False)
    _take_away(connection, tables, _Events(tenant, stream, version))
    row = _row(tables, stream, tenant)
    connection.execute(update(tables.streams).where(*row).values(truncated_before=version + 1))


def _state_of(connection: Connection, tables: Tables, stream: str, tenant: str) -> Sequence[ColumnElement[bool]]:
    """Which row holds the present state, if this is the stream of a root entity. Whoever changes a root entity locks
    its row before its stream, and so must maintenance.
    """
    states = tables.root_states.c
    category = connection.execute(select(tables.streams.c.category).where(*_row(tables, stream, tenant))).scalar()
    try:
        root = UUID(stream.removeprefix(f"{category}-"))
    except ValueError:
        return (false(),)  # no root entity has such a name
    return states.tenant == tenant, states.category == category, states.id == root


@dataclass(frozen=True, slots=True)
class _Stream:
    version: int
    archived: bool


def _locked(connection: Connection, tables: Tables, stream: str, tenant: str) -> _Stream:
    """The row of a stream that is there, locked until the transaction ends."""
    streams = tables.streams.c
    query = select(streams.version, streams.archived, streams.deleted_at).where(*_row(tables, stream, tenant))
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError(kind="stream", identifier=stream)
    if row.deleted_at is not None:
        raise StreamDeletedError(stream=stream, deleted_at=row.deleted_at)
    return _Stream(row.version, row.archived)


def _row(tables: Tables, stream: str, tenant: str) -> tuple[ColumnElement[bool], ...]:
    return tables.streams.c.tenant == tenant, tables.streams.c.stream == stream


def _set_archived(connection: Connection, tables: Tables, stream: str, tenant: str, *, archived: bool) -> None:
    events = tables.events
    its_events = (events.c.tenant == tenant, events.c.stream == stream)
    connection.execute(update(tables.streams).where(*_row(tables, stream, tenant)).values(archived=archived))
    connection.execute(update(events).where(*its_events).values(archived=archived))


@dataclass(frozen=True, slots=True)
class _Events:
    """The events of a stream up to a version."""

    tenant: str
    stream: str
    until: int

    def where(self, tables: Tables) -> tuple[ColumnElement[bool], ...]:
        events = tables.events.c
        return events.tenant == self.tenant, events.stream == self.stream, events.version <= self.until


def _require_read(connection: Connection, tables: Tables, which: _Events) -> None:
    """ReadersBehindError while a reader of the store has not come to the last of these events."""
    highest = select(func.max(tables.events.c.position)).where(*which.where(tables))
    last: int = connection.execute(highest).scalar() or 0
    checkpoints = tables.checkpoints.c
    behind = (
        select(checkpoints.projection, checkpoints.position)
        .where(checkpoints.partition == STORE, checkpoints.position < last)
        .order_by(checkpoints.projection)
    )
    readers = [f"{row.projection} at {row.position}" for row in connection.execute(behind)]
    if readers:
        raise ReadersBehindError(stream=which.stream, position=last, readers=readers)


def _take_away(connection: Connection, tables: Tables, which: _Events) -> None:
    """Delete these events, and the snapshot that was made of them. A checkpoint is known by the last event at or below
    it (see `checkpoints.verify`): where that is one of these, it is known by the one before from now on, or its reader
    would take the store for another.
    """
    _require_read(connection, tables, which)
    events, checkpoints, tags = tables.events, tables.checkpoints, tables.event_tags
    its_ids = select(events.c.message_id).where(*which.where(tables))
    its_positions = select(events.c.position).where(*which.where(tables))
    stands_on = select(checkpoints.c.projection, checkpoints.c.position).where(
        checkpoints.c.partition == STORE, checkpoints.c.message_id.in_(its_ids)
    )
    moved = connection.execute(stands_on.order_by(checkpoints.c.projection).with_for_update()).all()
    connection.execute(delete(tags).where(tags.c.tenant == which.tenant, tags.c.position.in_(its_positions)))
    connection.execute(delete(events).where(*which.where(tables)))
    delete_snapshot(connection, tables, which.stream, tenant=which.tenant)
    for name, position in moved:
        connection.execute(
            update(checkpoints)
            .where(checkpoints.c.projection == name, checkpoints.c.partition == STORE)
            .values(message_id=last_event(connection, tables, position))
        )
