"""Reads both databases by plain statements."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import asyncpg

from tools.messaging_checker.evidence import DeadLetter, Effect, Entry, Evidence, Stored
from tools.messaging_checker.written import entry_of

STORED = "SELECT position, stream, version, message_id, data FROM cqrs_events ORDER BY position"
STREAMS = "SELECT stream, version FROM cqrs_streams"
OUTBOX = "SELECT id FROM cqrs_outbox"
EFFECTS = "SELECT n, handler, message_id, client, seq, part, key, number FROM effects ORDER BY n"
DEAD_LETTERS = "SELECT consumer, message_id, code FROM cqrs_dead_letters"
BLOCKED_KEYS = "SELECT owner, key FROM cqrs_blocked_keys"
INBOX = "SELECT consumer, message_id, status FROM cqrs_inbox"
LEASES = "SELECT name FROM cqrs_leases WHERE owner IS NOT NULL AND expires_at > clock_timestamp()"
BACK_ENDS = (
    "SELECT datname || ': ' || coalesce(application_name, '') || ' ' || coalesce(state, '') FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


async def read_writing(url: str, evidence: Evidence) -> None:
    """The service that decides: the store, its outbox, and the effects of its own durable handlers."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(STORED)
        evidence.stored = [_stored(row) for row in rows]
        evidence.streams = dict(await connection.fetch(STREAMS))
        evidence.outbox = [str(row[0]) for row in await connection.fetch(OUTBOX)]
        await _read_handling(connection, evidence)
    finally:
        await connection.close()


async def read_reading(url: str, evidence: Evidence) -> None:
    """The service that consumes the topic."""
    connection = await asyncpg.connect(url)
    try:
        await _read_handling(connection, evidence)
    finally:
        await connection.close()


async def _read_handling(connection: Any, evidence: Evidence) -> None:
    last = max((effect.n for effect in evidence.effects), default=0)
    evidence.effects += [_effect(row, last) for row in await connection.fetch(EFFECTS)]
    letters = await connection.fetch(DEAD_LETTERS)
    evidence.dead_letters += [DeadLetter(consumer, str(message_id), code) for consumer, message_id, code in letters]
    evidence.blocked_keys += [(owner, key) for owner, key in await connection.fetch(BLOCKED_KEYS)]
    inbox = {(consumer, str(message_id)): status for consumer, message_id, status in await connection.fetch(INBOX)}
    evidence.inbox = {**evidence.inbox, **inbox}
    evidence.leases_held += _firsts(await connection.fetch(LEASES))
    evidence.back_ends += _firsts(await connection.fetch(BACK_ENDS))


def _firsts(rows: Iterable[Any]) -> list[str]:
    return [str(row[0]) for row in rows]


def _stored(row: Any) -> Stored:
    position, stream, version, message_id, data = row
    return Stored(position, stream, version, str(message_id), entry_of(json.loads(data)))


def _effect(row: Any, after: int) -> Effect:
    """The handlers of one service have their own count; it goes on where that of the other service ended."""
    n, handler, message_id, *entry = row
    return Effect(after + n, handler, str(message_id), Entry(*entry))
