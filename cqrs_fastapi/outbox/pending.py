"""A message of the outbox as a relay has it, and how much waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, literal, select

from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.messages.envelopes.chosen import POSITION_HEADER
from cqrs_fastapi.messages.envelopes.envelope import Outbound
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.storage.dialects import seconds_until
from cqrs_fastapi.storage.tables import Tables

OF_COLUMNS = frozenset({POSITION_HEADER, "message-id", "type", "tenant"})
"""Headers that stand in columns of their own."""
AT_MOST = 10_000
"""What waits is counted up to here: counting more would take as long as sending it."""


class Pending(NamedTuple):
    """A message of the outbox as it is stored, at its position; its envelope is made when it is sent. `attempts` counts
    the sends after the first.
    """

    position: int
    message: OutgoingMessage
    tenant: str
    bucket: int
    attempts: int

    @property
    def name(self) -> str:
        """What is kept in order and held together: `topic/key`. Messages without a key have the topic's name."""
        return name_of(self.message.topic, self.message.key)

    def outbound(self) -> Outbound:
        """What its envelope is made of."""
        stored = self.message
        headers = {name: text for name, text in stored.headers.items() if name not in OF_COLUMNS}
        kind = stored.headers.get("type", "")
        return Outbound(stored.message_id, kind, stored.topic, stored.key, stored.payload, headers, self.tenant)


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many messages wait (at most 10,000 are counted), how old the first of them is, how many keys are closed."""

    waiting: int
    oldest_seconds: float
    blocked_keys: int

    def told(self) -> str:
        """For people."""
        many = f"{AT_MOST:,} or more" if self.waiting >= AT_MOST else f"{self.waiting:,}"
        return f"{many} waiting, the oldest for {self.oldest_seconds:.0f} s; {self.blocked_keys} keys blocked"


def name_of(topic: str, key: str | None) -> str:
    """No topic has a slash in its name, so this is unambiguous."""
    return topic if key is None else f"{topic}/{key}"


def pending_of(row: Sequence[Any]) -> Pending:
    """From position, id, type, topic, key, payload, headers, tenant, bucket and attempts."""
    position, identifier, kind, topic, key, payload, headers, tenant, bucket, attempts = row
    stored = parse_json(headers)
    stored |= {"message-id": str(identifier), POSITION_HEADER: str(position)}
    if kind:
        stored["type"] = kind
    if tenant:
        stored["tenant"] = tenant
    return Pending(position, OutgoingMessage(identifier, topic, key, payload, stored), tenant, bucket, attempts)


def columns_of(tables: Tables) -> tuple[Any, ...]:
    """What `pending_of` takes."""
    one = tables.outbox.c
    return (
        one.position,
        one.id,
        one.type,
        one.topic,
        one.key,
        one.payload,
        one.headers,
        one.tenant,
        one.bucket,
        one.attempts,
    )


def backlog(connection: Connection, tables: Tables) -> Backlog:
    """What waits, by a statement that stays short however much it is."""
    outbox, blocked = tables.outbox, tables.blocked_keys
    some = select(literal(1)).select_from(outbox).limit(AT_MOST).subquery()
    keys = select(literal(1)).where(blocked.c.owner.in_(("relay", "relay-held"))).limit(AT_MOST).subquery()
    first = select(-seconds_until(connection, outbox.c.created_at)).order_by(outbox.c.position).limit(1)
    row = connection.execute(
        select(
            select(func.count()).select_from(some).scalar_subquery(),
            first.scalar_subquery(),
            select(func.count()).select_from(keys).scalar_subquery(),
        )
    ).one()
    return Backlog(row[0], max(0.0, row[1] or 0.0), row[2])
