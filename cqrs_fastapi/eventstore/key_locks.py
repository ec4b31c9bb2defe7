"""Which locks an append takes for messages whose key is no stream, so that writers of a key take turns."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from cqrs_fastapi.eventstore.records import AppendUnit

ALL_KEYS = 0
"""The lock that stands for all keys; whoever locks single ones shares it."""
MANY = 500
"""A call that would lock more keys locks all: the locks of a PostgreSQL server are counted."""


def key_locks_of(units: Sequence[AppendUnit]) -> list[tuple[int, int]]:
    """The number of a unit, from 1, and a lock that it needs; sorted by lock, the same way by every process."""
    needed = {
        (_lock(row["topic"], row["key"]), member)
        for member, unit in enumerate(units, start=1)
        for row in unit.outbox
        if row.get("ordered") and row["key"] is not None
    }
    if len({lock for lock, _ in needed}) > MANY:
        needed = {(ALL_KEYS, member) for _, member in needed}
    return [(member, lock) for lock, member in sorted(needed)]


def _lock(topic: str, key: str) -> int:
    """A signed number of 32 bits. Two keys that share one only wait for each other."""
    number = zlib.crc32(f"{topic}\0{key}".encode()) - (1 << 31)
    return number or 1
