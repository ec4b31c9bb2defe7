"""Dead letters: messages that could not be handled or sent, kept with their raw bytes and the reason."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, select

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.messages.json_codec import parse_json, render_json
from cqrs_fastapi.storage.columns import storable
from cqrs_fastapi.storage.tables import Tables

RELAY = "relay"
"""The consumer's name of a message that this service could not send."""
UNTOLD = "(its text is left out, since the message holds personal data)"


@dataclass(frozen=True, slots=True)
class Letter:
    """`consumer` is the handler that gave up, the group if the message was not understood, or `relay`.

    `sequence` names the key that is closed behind it, and `ordinal` is its place there; None of a message that parks
    alone. With `retry_at` it is no dead letter yet: it is tried again by itself. `dispatched_at` is when somebody began
    to replay it; None once its outcome is known.
    """

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
    sequence: str | None = None
    ordinal: int = 0
    retry_at: datetime | None = None
    dispatched_at: datetime | None = None
    sent_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a message was parked."""

    code: str
    error: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, *, tells: bool = True) -> Reason:
        """`code` of our own errors, the class's name of others. Unless it `tells`, the texts of the errors are left
        out, which may repeat what is personal in the message; where they were raised stays.
        """
        code = error.code if isinstance(error, CqrsError) else type(error).__name__
        if not tells:
            return cls(code, f"{type(error).__name__}: {UNTOLD}", "".join(_frames(error)))
        told = "".join(traceback.format_exception(error))
        return cls(code, storable(str(error)) or type(error).__name__, storable(told))


def _frames(error: BaseException) -> Iterator[str]:
    """Where an error and those behind it were raised, the first one first, without what they say."""
    chain = [error]
    while (before := _before(chain[-1])) is not None and before not in chain:
        chain.append(before)
    for one in reversed(chain):
        yield from traceback.format_tb(one.__traceback__)
        yield f"{type(one).__name__}: {UNTOLD}\n"


def _before(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def park(connection: Connection, tables: Tables, letter: Letter) -> None:
    """Keep the message, in the transaction that settles it elsewhere."""
    row: dict[str, Any] = {one.name: getattr(letter, one.name) for one in fields(letter)}
    row = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
    connection.execute(insert(tables.dead_letters), {**row, "headers": render_json(dict(letter.headers))})


def count(connection: Connection, tables: Tables) -> int:
    """How many messages are parked."""
    return connection.execute(select(func.count()).select_from(tables.dead_letters)).scalar_one()


def newest(connection: Connection, tables: Tables, limit: int) -> list[Letter]:
    """The latest parked messages, newest first."""
    letters = tables.dead_letters
    query = select(letters).order_by(letters.c.parked_at.desc(), letters.c.id.desc()).limit(limit)
    return [letter_of(row) for row in connection.execute(query).mappings()]


def letter_of(row: Mapping[Any, Any]) -> Letter:
    """From a row of the table."""
    values = dict(row)
    values["headers"] = parse_json(values["headers"])
    return Letter(**values)
