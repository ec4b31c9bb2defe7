"""Reads what an aggregate is folded from: the events of its stream, and the snapshot that stands for the first ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import from_json
from sqlalchemy import BigInteger, Connection, LargeBinary, Text, bindparam, cast, func, null, or_, select
from sqlalchemy import union_all as all_of

from cqrs_fastapi.errors import AheadOfStoreError
from cqrs_fastapi.eventstore.read import StreamRange, StreamRow
from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.prepared import Prepared, Row, prepared
from cqrs_fastapi.storage.tables import Tables


class FoundSnapshot(NamedTuple):
    """The state that the events up to `version` have made, as it is stored."""

    version: int
    state: bytes
    subjects: str
    """Keys that the state is sealed with, as JSON."""

    @property
    def key_ids(self) -> frozenset[UUID]:
        """Those; empty if the state holds nobody's data and is JSON."""
        return frozenset(UUID(str(one)) for one in from_json(self.subjects))


@dataclass(frozen=True, slots=True)
class History:
    """`events` are rows of version, type, schema_version and data, in the order of their versions; they may have more
    columns. They come after the snapshot, if there is one.
    """

    events: Sequence[Row]
    snapshot: FoundSnapshot | None = None


_VERSION, _TYPE, _SCHEMA_VERSION, _DATA, _DELETED_AT, _STATE = range(6)
_version_of, _type_of = itemgetter(_VERSION), itemgetter(_TYPE)


def read_history(connection: Connection, tables: Tables, wanted: StreamRange, at_most: int) -> History:
    """The first events above `wanted.after`; raises what `read_page` raises."""
    values = {"of_tenant": wanted.tenant, "of_stream": wanted.stream, "after": wanted.after, "at_most": at_most}
    return _history(_statement(tables).rows(connection, values), wanted)


def read_behind_snapshot(
    connection: Connection, tables: Tables, wanted: StreamRange, at_most: int, fingerprint: str
) -> History:
    """As `read_history` from the start, in one statement too, with the snapshot of this fingerprint if it fits.

    It fits while the very event that it was taken at is there. So one that is ahead of the stream, or from before a
    backup was restored, is as if it were not; nor does one that a summary event has taken the place of.
    """
    values = {
        "of_tenant": wanted.tenant,
        "of_stream": wanted.stream,
        "after": 0,
        "at_most": at_most,
        "of_fingerprint": fingerprint,
    }
    return _history(_statement_behind_snapshot(tables).rows(connection, values), wanted)


def _history(rows: Sequence[Row], wanted: StreamRange) -> History:
    # No database promises the order in which UNION ALL gives its parts.
    events = sorted(rows, key=_version_of)
    snapshot: FoundSnapshot | None = None
    row: StreamRow | None = None
    if None in map(_type_of, events):
        for other in [one for one in events if one[_TYPE] is None]:
            if other[_SCHEMA_VERSION] is None:
                snapshot = FoundSnapshot(other[_VERSION], other[_STATE], other[_DATA])
            else:
                row = StreamRow(other[_VERSION], other[_SCHEMA_VERSION], other[_DELETED_AT])
        events = [one for one in events if one[_TYPE] is not None]
    if row is not None:
        row.require(wanted)
    elif wanted.after > 0:
        raise AheadOfStoreError(what=f"stream {wanted.stream!r}", asked_for=wanted.after, reached=0)
    return History(events, snapshot)


@lru_cache(maxsize=16)
def _statement(tables: Tables) -> Prepared:
    return prepared(all_of(_page(tables, bindparam("after", type_=BigInteger)), _stream_row(tables)))


@lru_cache(maxsize=16)
def _statement_behind_snapshot(tables: Tables) -> Prepared:
    """The database looks for the snapshot first: nobody need know its version before."""
    events, snapshots = tables.events.c, tables.snapshots.c
    fitting = (
        select(snapshots.version, snapshots.state, snapshots.subjects)
        .join_from(
            tables.snapshots,
            tables.events,
            (events.tenant == snapshots.tenant)
            & (events.stream == snapshots.stream)
            & (events.version == snapshots.version)
            & (events.message_id == snapshots.message_id),
        )
        .where(
            snapshots.tenant == bindparam("of_tenant"),
            snapshots.stream == bindparam("of_stream"),
            snapshots.fingerprint == bindparam("of_fingerprint"),
        )
        .cte("fitting")
    )
    after = func.coalesce(select(fitting.c.version).scalar_subquery(), bindparam("after", type_=BigInteger))
    no_state, no_text, no_time = cast(null(), LargeBinary), cast(null(), Text), cast(null(), UtcDateTime)
    page, stream_row = _page(tables, after).add_columns(no_state), _stream_row(tables).add_columns(no_state)
    # In the columns of an event: subjects for data.
    snapshot = select(fitting.c.version, no_text, null(), cast(fitting.c.subjects, Text), no_time, fitting.c.state)
    return prepared(all_of(page, stream_row, snapshot))


def _page(tables: Tables, after: Any) -> Any:
    """The events of a page, in the columns of all parts."""
    events = tables.events.c
    page = (
        select(events.version, events.type, events.schema_version, events.data)
        .where(
            events.tenant == bindparam("of_tenant"),
            events.stream == bindparam("of_stream"),
            events.version > after,
        )
        .order_by(events.version)
        .limit(bindparam("at_most"))
        .subquery()
    )
    return select(page, cast(null(), UtcDateTime))


def _stream_row(tables: Tables) -> Any:
    """The row of the stream, where it can matter. In the columns of an event: truncated_before for a schema."""
    streams = tables.streams.c
    return select(
        streams.version, cast(null(), Text), streams.truncated_before, cast(null(), Text), streams.deleted_at
    ).where(
        streams.tenant == bindparam("of_tenant"),
        streams.stream == bindparam("of_stream"),
        or_(bindparam("after", type_=BigInteger) > 0, streams.deleted_at.is_not(None)),
    )
