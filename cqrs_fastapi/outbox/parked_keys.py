"""Keys of which a message was refused for good: what follows in them is parked behind it, not sent past it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select

from cqrs_fastapi.dead_letters.parking import RELAY, Letter, park
from cqrs_fastapi.outbox.rows import Pending
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class ParkedKeys:
    """The parked keys of all topics, as (topic, key) in one text."""

    keys: frozenset[str]

    @classmethod
    def load(cls, connection: Connection, tables: Tables) -> ParkedKeys:
        blocked = tables.blocked_keys
        return cls(frozenset(connection.execute(select(blocked.c.key).where(blocked.c.owner == RELAY)).scalars()))

    def holds(self, pending: Pending) -> bool:
        return bool(self.keys) and _name(pending) in self.keys

    @staticmethod
    def park(
        connection: Connection, tables: Tables, pending: Pending, reason: str, *, letter_id: UUID, now: datetime
    ) -> None:
        """Move a message to the dead letters and close its key."""
        message = pending.message
        letter = Letter(
            id=letter_id,
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
            attempts=1,
            parked_at=now,
            tenant=pending.tenant,
        )
        park(connection, tables, letter)
        if message.key is not None:
            row = {"owner": RELAY, "key": _name(pending), "reason": reason, "blocked_at": now}
            connection.execute(upsert(connection, tables.blocked_keys).on_conflict_do_nothing(), row)


def _name(pending: Pending) -> str:
    return f"{pending.message.topic}/{pending.message.key}"
