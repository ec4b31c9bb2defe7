"""What a relay takes from the outbox, and how it takes away what was acknowledged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Integer,
    Text,
    Uuid,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.sql.elements import TextClause

from cqrs_fastapi.outbox.buckets import share_of
from cqrs_fastapi.outbox.pending import Pending, columns_of, pending_of
from cqrs_fastapi.storage import leases
from cqrs_fastapi.storage.dialects import database_now, is_postgres, seconds_until
from cqrs_fastapi.storage.leases import Lease, LeaseLostError
from cqrs_fastapi.storage.prepared import Row
from cqrs_fastapi.storage.tables import Tables

PARKED = "relay"
"""Owner of a blocked key of which a message is among the dead letters."""
HELD = "relay-held"
"""Owner of a blocked key whose messages are put aside until its topic takes them again."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What a claim passes over: keys and topics that wait for their next attempt, and topics that are not wanted."""

    held: tuple[str, ...] = ()
    shut: tuple[str, ...] = ()
    wanted: tuple[str, ...] | None = None


class Skipped(NamedTuple):
    """A row that a claim passes over. `owner` is that of its blocked key, `due_in` is 0 unless it is delayed."""

    position: int
    bucket: int
    topic: str
    key: str | None
    owner: str | None
    due_in: float


def claim(
    connection: Connection, tables: Tables, buckets: Sequence[int], at_most: int, passed: Passed
) -> list[Pending]:
    """The first rows that are due, bucket by bucket in this order, of each key a prefix; sorted by position.

    A row is due if nobody has delayed it, whatever its writer's clock said, or by the database's clock.
    """
    values: dict[str, Any] = {"numbers": list(buckets), "at_most": at_most, **_passed(passed)}
    if is_postgres(connection):
        values["wanted"] = None if passed.wanted is None else list(passed.wanted)
        result = connection.execute(_call_claim(tables), values)
        rows: Sequence[Row] = result.cursor.fetchall() if result.cursor is not None else ()
        result.close()
    else:
        rows = _claimed_here(connection, tables, buckets, at_most, passed)
    return sorted(map(pending_of, rows))


def front(connection: Connection, tables: Tables, buckets: Sequence[int], depth: int, passed: Passed) -> list[Skipped]:
    """Of the first `depth` rows of each bucket, those that a claim passes over, and why."""
    if is_postgres(connection):
        values = {"numbers": list(buckets), "depth": depth, **_passed(passed)}
        return [Skipped._make(row) for row in connection.execute(_call_front(tables), values)]
    query = _front_here(connection, tables)
    names = {"held": json.dumps(passed.held), "shut": json.dumps(passed.shut)}
    found: list[Skipped] = []
    filled = set(connection.execute(_filled_buckets(tables)).scalars())
    for bucket in filled.intersection(buckets):
        rows = connection.execute(query, {"number": bucket, "depth": depth, **names})
        found += [Skipped._make(row) for row in rows]
    return found


def settle(
    connection: Connection, tables: Tables, held: Mapping[int, Lease], rows: Sequence[tuple[int, int]]
) -> set[int]:
    """Delete rows, given by position and bucket: by list, since a range could take one that was not sent.

    Only what was claimed under a lease that is still held is deleted; the shares of those leases are returned. Until
    the transaction ends nobody takes them over.
    """
    numbers = {share: number for number, share in enumerate(held, start=1)}
    mine = [(position, share) for position, bucket in rows if (share := share_of(bucket)) in numbers]
    if not is_postgres(connection):
        return _settled_here(connection, tables, held, mine)
    values = {
        "names": [lease.name for lease in held.values()],
        "epochs": [lease.epoch for lease in held.values()],
        "holder": next(iter(held.values())).owner if held else None,
        "places": [position for position, _ in mine],
        "shares": [numbers[share] for _, share in mine],
    }
    kept = connection.execute(_call_settle(tables), values).scalar_one()
    by_number = {number: share for share, number in numbers.items()}
    return {by_number[number] for number in kept}


def _passed(passed: Passed) -> dict[str, Any]:
    return {"held": list(passed.held), "shut": list(passed.shut)}


def _function(tables: Tables, name: str) -> str:
    outbox = tables.outbox
    prefix = outbox.name.removesuffix("outbox")
    return f'"{outbox.schema}".{prefix}{name}' if outbox.schema else f"{prefix}{name}"


_LISTS = (
    bindparam("numbers", type_=ARRAY(Integer)),
    bindparam("held", type_=ARRAY(Text)),
    bindparam("shut", type_=ARRAY(Text)),
)


@lru_cache(maxsize=16)
def _call_claim(tables: Tables) -> TextClause:
    call = f"SELECT * FROM {_function(tables, 'relay_claim')}(:numbers, :at_most, :held, :shut, :wanted)"  # noqa: S608
    return text(call).bindparams(*_LISTS, bindparam("at_most", type_=Integer), bindparam("wanted", type_=ARRAY(Text)))


@lru_cache(maxsize=16)
def _call_front(tables: Tables) -> TextClause:
    call = f"SELECT * FROM {_function(tables, 'relay_front')}(:numbers, :depth, :held, :shut)"  # noqa: S608
    return text(call).bindparams(*_LISTS, bindparam("depth", type_=Integer))


@lru_cache(maxsize=16)
def _call_settle(tables: Tables) -> TextClause:
    call = f"SELECT kept FROM {_function(tables, 'relay_settle')}(:names, :epochs, :holder, :places, :shares)"  # noqa: S608
    return text(call).bindparams(
        bindparam("names", type_=ARRAY(Text)),
        bindparam("epochs", type_=ARRAY(BigInteger)),
        bindparam("holder", type_=Uuid()),
        bindparam("places", type_=ARRAY(BigInteger)),
        bindparam("shares", type_=ARRAY(Integer)),
    )


def _claimed_here(
    connection: Connection, tables: Tables, buckets: Sequence[int], at_most: int, passed: Passed
) -> list[Row]:
    """SQLite has no lateral joins: a statement finds the buckets that are not empty, and then there is one for each."""
    filled = set(connection.execute(_filled_buckets(tables)).scalars())
    if not filled.intersection(buckets):
        return []
    query = _claim_here(connection, tables)
    names = {"held": json.dumps(passed.held), "shut": json.dumps(passed.shut), "wanted": json.dumps(passed.wanted)}
    rows: list[Row] = []
    for bucket in (bucket for bucket in buckets if bucket in filled):
        if len(rows) >= at_most:
            break
        rows += connection.execute(query, {"number": bucket, "left": at_most - len(rows), **names}).all()
    return rows


@lru_cache(maxsize=16)
def _filled_buckets(tables: Tables) -> Any:
    """From one bucket to the next by the index, which takes as many steps as there are buckets."""
    outbox = tables.outbox
    first = select(func.min(outbox.c.bucket).label("number")).where(outbox.c.bucket >= 0)
    steps = first.cte("filled", recursive=True)
    following = select(func.min(outbox.c.bucket)).where(outbox.c.bucket > steps.c.number).scalar_subquery()
    steps = steps.union_all(select(following).where(steps.c.number.is_not(None)))
    return select(steps.c.number).where(steps.c.number.is_not(None))


def _claim_here(connection: Connection, tables: Tables) -> Any:
    outbox, blocked = tables.outbox, tables.blocked_keys
    name = outbox.c.topic + "/" + outbox.c.key
    is_blocked = select(1).where(blocked.c.owner.in_((PARKED, HELD)), blocked.c.key == name).exists()
    wanted = bindparam("wanted", type_=Text)
    return (
        select(*columns_of(tables))
        .where(
            outbox.c.bucket == bindparam("number", type_=Integer),
            or_(outbox.c.available_at <= outbox.c.created_at, outbox.c.available_at <= database_now(connection)),
            func.coalesce(name, outbox.c.topic).not_in(_listed("held")),
            outbox.c.topic.not_in(_listed("shut")),
            or_(outbox.c.key.is_(None), ~is_blocked),
            or_(wanted == "null", outbox.c.topic.in_(_listed("wanted"))),
        )
        .order_by(outbox.c.position)
        .limit(bindparam("left", type_=Integer))
    )


def _front_here(connection: Connection, tables: Tables) -> Any:
    outbox, blocked = tables.outbox, tables.blocked_keys
    first = (
        select(outbox)
        .where(outbox.c.bucket == bindparam("number", type_=Integer))
        .order_by(outbox.c.position)
        .limit(bindparam("depth", type_=Integer))
        .subquery()
    )
    name = first.c.topic + "/" + first.c.key
    owner = select(func.min(blocked.c.owner)).where(blocked.c.owner.in_((PARKED, HELD)), blocked.c.key == name)
    due_in = case(
        (first.c.available_at > first.c.created_at, seconds_until(connection, first.c.available_at)), else_=0.0
    )
    found = select(
        first.c.position, first.c.bucket, first.c.topic, first.c.key, owner.scalar_subquery().label("owner"), due_in
    )
    return found.where(
        or_(
            owner.scalar_subquery().is_not(None),
            due_in > 0.0,
            func.coalesce(name, first.c.topic).in_(_listed("held")),
            first.c.topic.in_(_listed("shut")),
        )
    )


def _listed(name: str) -> Any:
    return select(func.json_each(bindparam(name, type_=Text)).table_valued("value").c.value)


def _settled_here(
    connection: Connection, tables: Tables, held: Mapping[int, Lease], rows: Sequence[tuple[int, int]]
) -> set[int]:
    kept: set[int] = set()
    for share, lease in held.items():
        try:
            leases.fenced(connection, tables, lease)
        except LeaseLostError:
            continue
        kept.add(share)
    outbox = tables.outbox
    gone = json.dumps([position for position, share in rows if share in kept])
    chosen = select(func.json_each(gone).table_valued("value").c.value)
    connection.execute(delete(outbox).where(outbox.c.position.in_(chosen)))
    return kept
