"""Keys of which a message was refused for good: what follows in them is parked behind it, not sent past it.

The row of a blocked key is locked by whoever parks a follower and by whoever puts the key back, so that nothing is
parked behind a key that has just been opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, text, update

from cqrs_fastapi.dead_letters.parking import RELAY, Letter, park
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.outbox.buckets import ASIDE
from cqrs_fastapi.outbox.claiming import HELD, PARKED
from cqrs_fastapi.outbox.pending import Pending, columns_of, pending_of
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

BEHIND = "an earlier message of this key is parked"


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that its broker will never take. `overtaken_by` are messages of its key that it has taken already."""

    pending: Pending
    reason: str
    overtaken_by: Sequence[Pending] = ()

    def told(self) -> str:
        if not self.overtaken_by:
            return self.reason
        places = ", ".join(str(one.position) for one in self.overtaken_by)
        return f"{self.reason}; overtaken by what was sent of its key: outbox positions {places}"


def park_refused(connection: Connection, tables: Tables, refused: Refused, *, ids: IdFactory, now: datetime) -> None:
    """Move a message to the dead letters and close its key."""
    pending = refused.pending
    park(connection, tables, _letter(pending, refused.told(), ids, now))
    if pending.message.key is not None:
        row = {"owner": PARKED, "key": pending.name, "reason": refused.reason, "blocked_at": now}
        connection.execute(upsert(connection, tables.blocked_keys).on_conflict_do_nothing(), row)


def park_followers(
    connection: Connection, tables: Tables, positions: Sequence[int], *, ids: IdFactory, now: datetime
) -> int:
    """Move rows of closed keys to the dead letters, in their order; how many. A key that was opened is left alone."""
    outbox, blocked = tables.outbox, tables.blocked_keys
    rows = connection.execute(
        select(*columns_of(tables)).where(outbox.c.position.in_(positions)).order_by(outbox.c.position)
    ).all()
    found = [pending_of(row) for row in rows]
    names = sorted({one.name for one in found})
    closed = select(blocked.c.key).where(blocked.c.owner == PARKED, blocked.c.key.in_(names)).order_by(blocked.c.key)
    still = set(connection.execute(closed.with_for_update()).scalars())
    behind = [one for one in found if one.name in still]
    for one in behind:
        park(connection, tables, _letter(one, BEHIND, ids, now))
    connection.execute(delete(outbox).where(outbox.c.position.in_([one.position for one in behind])))
    return len(behind)


def put_aside(connection: Connection, tables: Tables, rows: Sequence[tuple[int, str]], *, now: datetime) -> None:
    """Take rows (position, key's name) out of the way of claims, until their keys pass again."""
    outbox = tables.outbox
    names = sorted({name for _, name in rows})
    if names:
        closing = [{"owner": HELD, "key": name, "reason": "held for long", "blocked_at": now} for name in names]
        connection.execute(upsert(connection, tables.blocked_keys).on_conflict_do_nothing(), closing)
    mine = outbox.c.position.in_([position for position, _ in rows]) & (outbox.c.bucket >= 0)
    connection.execute(update(outbox).where(mine).values(bucket=ASIDE - outbox.c.bucket))


def aside(connection: Connection, tables: Tables, name: str, at_most: int) -> list[Pending]:
    """The first rows of a key that were put aside."""
    outbox = tables.outbox
    topic, _, key = name.partition("/")
    query = select(*columns_of(tables)).where(_is_aside(tables, topic, key)).order_by(outbox.c.position).limit(at_most)
    return [pending_of(row) for row in connection.execute(query)]


def names_aside(connection: Connection, tables: Tables) -> list[str]:
    """The keys of which rows were put aside."""
    blocked = tables.blocked_keys
    return list(connection.execute(select(blocked.c.key).where(blocked.c.owner == HELD)).scalars())


def open_when_empty(connection: Connection, tables: Tables, name: str) -> bool:
    """Let a key be claimed as any other again, if nothing of it is aside."""
    blocked = tables.blocked_keys
    mine = (blocked.c.owner == HELD) & (blocked.c.key == name)
    # Before looking, since `put_back` puts rows aside while it holds this row.
    connection.execute(select(blocked.c.key).where(mine).with_for_update()).all()
    if aside(connection, tables, name, 1):
        return False
    connection.execute(delete(blocked).where(mine))
    return True


def parked_of(connection: Connection, tables: Tables, names: Sequence[str]) -> set[str]:
    """Which of these keys are closed for good."""
    blocked = tables.blocked_keys
    query = select(blocked.c.key).where(blocked.c.owner == PARKED, blocked.c.key.in_(names))
    return set(connection.execute(query).scalars())


def _is_aside(tables: Tables, topic: str, key: str) -> Any:
    outbox = tables.outbox
    # Written out as the index has it: of parameters the planner would not know that they are its bounds.
    return text("bucket BETWEEN -1000 AND -1") & (outbox.c.topic == topic) & (outbox.c.key == key)


def _letter(pending: Pending, reason: str, ids: IdFactory, now: datetime) -> Letter:
    message = pending.message
    return Letter(
        id=ids(),
        consumer=RELAY,
        message_id=message.message_id,
        topic=message.topic,
        partition=-1,
        offset=pending.position,
        key=message.key.encode() if message.key is not None else None,
        headers=message.headers,
        payload=message.payload,
        code="refused",
        error=reason,
        traceback="",
        attempts=pending.attempts + 1,
        parked_at=now,
        tenant=pending.tenant,
    )
