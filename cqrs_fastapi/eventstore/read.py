"""Reads one stream a page at a time. A page is one statement, and nothing stays open between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, null, or_, select, union_all

from cqrs_fastapi.errors import AheadOfStoreError, StreamDeletedError, StreamTruncatedError
from cqrs_fastapi.eventstore.expected_version import LAST
from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.storage.prepared import Prepared, prepared
from cqrs_fastapi.storage.tables import Tables

PAGE = 500
"""Events that are held at once, however many are read."""
_NO_LIMIT = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class StreamRange:
    """Versions above `after` and up to `until`, of events recorded at `since` or later and earlier than `before`."""

    tenant: str
    stream: str
    after: int = 0
    until: int = LAST
    since: datetime | None = None
    before: datetime | None = None
    backwards: bool = False
    begun: bool = False
    """Whether a part of what was asked for has been read already."""

    def rest(self, last: StoredEvent) -> StreamRange | None:
        """What remains after `last`; None if nothing can."""
        if self.backwards:
            until = last.version - 1
            return replace(self, until=until, begun=True) if until > self.after else None
        return replace(self, after=last.version, begun=True) if last.version < self.until else None


def read_page(connection: Connection, tables: Tables, wanted: StreamRange, at_most: int) -> list[StoredEvent]:
    """The first events of a range; of a stream that never was, none. A truncated stream starts at its summary event.

    Raises StreamDeletedError; StreamTruncatedError if what was asked for is gone, or went while it was being read; and
    AheadOfStoreError if the stream has not reached `after`.
    """
    statement = _statement(tables, wanted.backwards, wanted.since is not None, wanted.before is not None)
    values = {
        "of_tenant": wanted.tenant,
        "of_stream": wanted.stream,
        "after": wanted.after,
        "until": wanted.until,
        "since": wanted.since,
        "before": wanted.before,
        "at_most": at_most,
    }
    rows = statement.rows(connection, values)
    stored = [StoredEvent(*row) for row in rows if row[0] is not None]
    # No database promises the order in which UNION ALL gives its parts.
    stored.sort(key=_version_of, reverse=wanted.backwards)
    if len(stored) < len(rows):
        row = next(StreamRow(row[3], row[5], row[8]) for row in rows if row[0] is None)
        row.require(wanted)
        if not stored and wanted.before is not None:
            _require_recorded(connection, tables, wanted, wanted.before, row.truncated_before)
    elif wanted.after > 0:
        raise AheadOfStoreError(what=f"stream {wanted.stream!r}", asked_for=wanted.after, reached=0)
    return stored


def read_stream(
    connection: Connection, tables: Tables, stream: str, *, tenant: str, after: int = 0, limit: int | None = None
) -> list[StoredEvent]:
    """The events of a stream with a version above `after`, in order, all in memory; see `read_page`."""
    return read_page(connection, tables, StreamRange(tenant, stream, after), _NO_LIMIT if limit is None else limit)


@dataclass(frozen=True, slots=True)
class StreamRow:
    """What the row of the stream says. It is read where it can matter: of most streams it is not."""

    version: int
    truncated_before: int
    deleted_at: datetime | None

    def require(self, wanted: StreamRange) -> None:
        """Raise the error of a reader that wants what is not there."""
        gone = self.truncated_before - 1
        if self.deleted_at is not None:
            raise StreamDeletedError(stream=wanted.stream, deleted_at=self.deleted_at)
        if wanted.after > self.version:
            what = f"stream {wanted.stream!r}"
            raise AheadOfStoreError(what=what, asked_for=wanted.after, reached=self.version)
        # Whoever reads backwards has had the summary when exactly what it stands for remains.
        if wanted.until < gone or (wanted.until == gone and not wanted.begun):
            raise _truncated(wanted, f"version {wanted.until}", self.truncated_before)
        if 0 < wanted.after < gone:
            raise _truncated(wanted, f"version {wanted.after + 1}", self.truncated_before)


def _require_recorded(
    connection: Connection, tables: Tables, wanted: StreamRange, before: datetime, first_version: int
) -> None:
    """Nothing was recorded before a time, or what was is gone: the time of the summary tells which."""
    events = tables.events
    query = select(events.c.recorded_at).where(
        events.c.tenant == wanted.tenant, events.c.stream == wanted.stream, events.c.version == first_version
    )
    first_at: datetime | None = connection.execute(query).scalar()
    if first_version > 1 and not wanted.begun and first_at is not None and before <= first_at:
        raise _truncated(wanted, f"what was recorded before {before.isoformat()}", first_version)


def _truncated(wanted: StreamRange, asked_for: str, first_version: int) -> StreamTruncatedError:
    return StreamTruncatedError(stream=wanted.stream, asked_for=asked_for, first_version=first_version)


def _version_of(stored: StoredEvent) -> int:
    return stored.version


@lru_cache(maxsize=64)
def _statement(tables: Tables, backwards: bool, since: bool, before: bool) -> Prepared:
    """The events of a range and, in the same state of the database, the row of the stream where it can matter."""
    events, streams = tables.events, tables.streams
    after = bindparam("after", type_=BigInteger)
    selected = select(*stored_columns(tables)).where(
        events.c.tenant == bindparam("of_tenant"),
        events.c.stream == bindparam("of_stream"),
        events.c.version > after,
        events.c.version <= bindparam("until"),
    )
    if since:
        selected = selected.where(events.c.recorded_at >= bindparam("since"))
    if before:
        selected = selected.where(events.c.recorded_at < bindparam("before"))
    page = (
        selected.order_by(events.c.version.desc() if backwards else events.c.version)
        .limit(bindparam("at_most"))
        .subquery()
    )
    # In the columns of an event: no position, the version, truncated_before for a schema, deleted_at for a time.
    row = select(
        *(null(), null(), null(), streams.c.version, null(), streams.c.truncated_before),
        *(null(), null(), streams.c.deleted_at),
    ).where(
        streams.c.tenant == bindparam("of_tenant"),
        streams.c.stream == bindparam("of_stream"),
        or_(after > 0, streams.c.truncated_before > 1, streams.c.deleted_at.is_not(None)),
    )
    return prepared(union_all(select(page), row))


def stored_columns(tables: Tables) -> Sequence[Any]:
    """The columns of a StoredEvent, in its order."""
    events = tables.events.c
    return (
        events.position,
        events.message_id,
        events.stream,
        events.version,
        events.type,
        events.schema_version,
        events.data,
        events.meta,
        events.recorded_at,
    )
