"""Keeps the front of the buckets free of rows that claims only pass over.

Each such row is moved once: behind a parked key to the dead letters, behind a key that is held for long aside, and what
is due much later to the delayed. So the rows that a claim looks at in vain are bounded, however many wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, literal, select, update

from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.outbox.buckets import DELAYED, share_of
from cqrs_fastapi.outbox.claiming import HELD, PARKED, Passed, Skipped, front
from cqrs_fastapi.outbox.parked_keys import park_followers, put_aside
from cqrs_fastapi.outbox.pending import name_of
from cqrs_fastapi.storage.dialects import database_now, seconds_until
from cqrs_fastapi.storage.tables import Tables

CROWDED = 50
"""So many rows of a bucket that are passed over are moved; fewer cost less than moving them."""
DEPTH = 2 * CROWDED
CHUNK = 2_000
"""Rows that are moved in one transaction."""
_AGAIN = timedelta(seconds=5)
_SOON = 2.0
"""Seconds. What is due so soon is not worth being moved twice."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be moved: behind parked keys, aside (with the key's name), and to the delayed.

    `due_in` is when the next delayed row is due, in seconds; `is_due` that one is to come back now.
    """

    behind: Sequence[Skipped]
    aside: Sequence[tuple[Skipped, str]]
    later: Sequence[Skipped]
    due_in: float | None
    is_due: bool

    @property
    def has_work(self) -> bool:
        return bool(self.behind or self.aside or self.later or self.is_due)


def look(connection: Connection, tables: Tables, buckets: Sequence[int], passed: Passed) -> Look:
    """Find what crowds the front of these buckets; reads only."""
    skipped = front(connection, tables, buckets, DEPTH, passed)
    crowded = _crowded(skipped)
    if crowded:
        skipped = front(connection, tables, sorted(crowded), CHUNK, passed)[:CHUNK]
    behind = [one for one in skipped if one.owner == PARKED]
    waiting = [one for one in skipped if one.owner != PARKED and one.due_in <= 0]
    # What follows rows that were put aside is put there too, so that a key's way back is found in one place.
    aside = [(one, name_of(one.topic, one.key)) for one in waiting if one.key is not None and _is_moved(one, crowded)]
    unkeyed = [one for one in waiting if one.key is None and one.bucket in crowded]
    later = [one for one in skipped if one.due_in > _SOON and one.bucket in crowded]
    soonest = [one.due_in for one in skipped if one.due_in > 0]
    left = _next_due(connection, tables, buckets)
    if left is not None:
        soonest.append(max(0.0, left))
    due_in = min(soonest) if soonest else None
    return Look(behind, aside, [*unkeyed, *later], due_in, is_due=left is not None and left <= 0)


def sweep(
    connection: Connection,
    tables: Tables,
    found: Look,
    shares: set[int],
    buckets: Sequence[int],
    *,
    ids: IdFactory,
    now: datetime,
) -> None:
    """Move it, in a transaction that is fenced by the leases of these shares."""
    behind = [one.position for one in found.behind if share_of(one.bucket) in shares]
    if behind:
        park_followers(connection, tables, behind, ids=ids, now=now)
    aside = [(one.position, name) for one, name in found.aside if share_of(one.bucket) in shares]
    if aside:
        put_aside(connection, tables, aside, now=now)
    later = [one.position for one in found.later if share_of(one.bucket) in shares]
    if later:
        _delay(connection, tables, later)
    if found.is_due:
        _come_back(connection, tables, [bucket for bucket in buckets if share_of(bucket) in shares])


def _crowded(skipped: Sequence[Skipped]) -> set[int]:
    many = Counter(one.bucket for one in skipped)
    return {bucket for bucket, count in many.items() if count >= CROWDED}


def _is_moved(one: Skipped, crowded: set[int]) -> bool:
    return one.owner == HELD or one.bucket in crowded


def _next_due(connection: Connection, tables: Tables, buckets: Sequence[int]) -> float | None:
    outbox = tables.outbox
    delayed = outbox.c.bucket.in_([DELAYED - bucket for bucket in buckets])
    first = select(func.min(outbox.c.available_at).label("moment")).where(delayed).subquery()
    left: float | None = connection.execute(select(seconds_until(connection, first.c.moment))).scalar()
    return left


def _delay(connection: Connection, tables: Tables, positions: Sequence[int]) -> None:
    """A row that is not delayed has no key, and is tried again after a while."""
    outbox = tables.outbox
    soon = database_now(connection, after=_AGAIN)
    mine = outbox.c.position.in_(positions) & (outbox.c.bucket >= 0)
    moment = (
        func.max(outbox.c.available_at, soon)
        if connection.dialect.name == "sqlite"
        else func.greatest(outbox.c.available_at, soon)
    )
    connection.execute(update(outbox).where(mine).values(bucket=DELAYED - outbox.c.bucket, available_at=moment))


def _come_back(connection: Connection, tables: Tables, buckets: Sequence[int]) -> None:
    outbox = tables.outbox
    due = (
        select(outbox.c.position)
        .where(outbox.c.bucket.in_([DELAYED - bucket for bucket in buckets]))
        .where(outbox.c.available_at <= database_now(connection))
        .order_by(outbox.c.bucket, outbox.c.available_at)
        .limit(literal(CHUNK))
    )
    connection.execute(update(outbox).where(outbox.c.position.in_(due)).values(bucket=DELAYED - outbox.c.bucket))
