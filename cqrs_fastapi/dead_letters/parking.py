"""Dead letters: messages that could not be handled or sent, kept with their raw bytes and the reason."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, select

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.messages.json_codec import parse_json, render_json
from cqrs_fastapi.storage.tables import Tables

RELAY = "relay"
"""The consumer's name of a message that this service could not send."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`consumer` is the handler that gave up, the group if the message was not understood, or `relay`."""

    id: UUID
    consumer: str
    message_id: UUID | None
    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Mapping[str, str]
    payload: bytes
    code: str
    error: str
    traceback: str
    attempts: int
    parked_at: datetime
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a message was parked."""

    code: str
    error: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Reason:
        """`code` of our own errors, the class's name of others."""
        code = error.code if isinstance(error, CqrsError) else type(error).__name__
        return cls(code, str(error) or type(error).__name__, "".join(traceback.format_exception(error)))


def park(connection: Connection, tables: Tables, letter: DeadLetter) -> None:
    """Keep the message, in the transaction that settles it elsewhere."""
    row: dict[str, Any] = {
        "id": letter.id,
        "consumer": letter.consumer,
        "message_id": letter.message_id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": letter.key,
        "headers": render_json(dict(letter.headers)),
        "payload": letter.payload,
        "code": letter.code,
        "error": letter.error,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "parked_at": letter.parked_at,
        "tenant": letter.tenant,
    }
    connection.execute(insert(tables.dead_letters), row)


def count(connection: Connection, tables: Tables) -> int:
    """How many messages are parked."""
    return connection.execute(select(func.count()).select_from(tables.dead_letters)).scalar_one()


def newest(connection: Connection, tables: Tables, limit: int) -> list[DeadLetter]:
    """The latest parked messages, newest first."""
    letters = tables.dead_letters
    query = select(letters).order_by(letters.c.parked_at.desc(), letters.c.id.desc()).limit(limit)
    return [_letter(row) for row in connection.execute(query).mappings()]


def _letter(row: Mapping[Any, Any]) -> DeadLetter:
    values = dict(row)
    values["headers"] = parse_json(values["headers"])
    return DeadLetter(**values)
