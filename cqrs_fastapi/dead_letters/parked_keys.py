"""Keys that are closed for a handler: one of their messages is parked, and whatever comes later parks behind it.

A row stands for each closed (handler, key). Who adds a follower and who replays take its lock first, so that the key is
opened only while nobody is adding to it. Keys of the relay are named otherwise; see `outbox`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

_HEX = "\\x"
AT_ONCE = 1_000
"""Keys that one statement asks for."""


def name_of(key: bytes) -> str:
    """A key as a text that every database takes: itself if it is plain text, else its bytes in hexadecimal."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return _HEX + key.hex()
    return text if text.isprintable() and not text.startswith(_HEX) else _HEX + key.hex()


def parked_among(connection: Connection, tables: Tables, consumer: str, keys: Collection[bytes]) -> set[bytes]:
    """Which of these keys are closed for the handler. Ask after you have asked which messages are settled: a message
    that somebody else has parked meanwhile is then never seen without its closed key.
    """
    return {key for _, key in closed_among(connection, tables, [consumer], keys)}


def closed_among(
    connection: Connection, tables: Tables, consumers: Collection[str], keys: Collection[bytes]
) -> set[tuple[str, bytes]]:
    """The same for several handlers, as pairs of handler and key."""
    names = {name_of(key): key for key in keys}
    wanted, blocked = sorted(names), tables.blocked_keys
    found: set[tuple[str, bytes]] = set()
    for start in range(0, len(wanted) if consumers else 0, AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        query = select(blocked.c.owner, blocked.c.key).where(
            blocked.c.owner.in_(sorted(consumers)), blocked.c.key.in_(part)
        )
        found.update((row.owner, names[row.key]) for row in connection.execute(query))
    return found


def close(connection: Connection, tables: Tables, consumer: str, name: str, *, reason: str, now: datetime) -> int:
    """Close a key, or keep it closed; the place behind all that is parked in it. Locks its row."""
    blocked = tables.blocked_keys
    row = {"owner": consumer, "key": name, "reason": reason, "blocked_at": now, "last_ordinal": 0}
    statement = upsert(connection, blocked).values(row)
    again = statement.on_conflict_do_update(
        index_elements=[blocked.c.owner, blocked.c.key], set_={"last_ordinal": blocked.c.last_ordinal + 1}
    )
    ordinal: int = connection.execute(again.returning(blocked.c.last_ordinal)).scalar_one()
    return ordinal


def place_behind(connection: Connection, tables: Tables, consumer: str, name: str) -> int | None:
    """The next place of a closed key, whose row is locked by this; None if the key is open."""
    blocked = tables.blocked_keys
    statement = (
        update(blocked)
        .where(blocked.c.owner == consumer, blocked.c.key == name)
        .values(last_ordinal=blocked.c.last_ordinal + 1)
    )
    ordinal: int | None = connection.execute(statement.returning(blocked.c.last_ordinal)).scalar_one_or_none()
    return ordinal


def lock(connection: Connection, tables: Tables, consumer: str, name: str) -> None:
    """From here to the end of the transaction nobody adds a follower, and nobody else takes one out."""
    blocked = tables.blocked_keys
    query = select(blocked.c.key).where(blocked.c.owner == consumer, blocked.c.key == name)
    connection.execute(query.with_for_update()).first()


def reopen(connection: Connection, tables: Tables, consumer: str, name: str) -> None:
    """Open a key whose row is locked, and in which nothing is left."""
    blocked = tables.blocked_keys
    connection.execute(delete(blocked).where(blocked.c.owner == consumer, blocked.c.key == name))
