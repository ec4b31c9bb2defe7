"""Puts back into the outbox what a relay has parked, so that it is sent in its old order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from cqrs_fastapi.dead_letters import parked_keys
from cqrs_fastapi.dead_letters.changing import LetterTakenError
from cqrs_fastapi.dead_letters.parking import RELAY, Letter, letter_of
from cqrs_fastapi.messages.json_codec import render_json
from cqrs_fastapi.outbox.buckets import ASIDE
from cqrs_fastapi.outbox.claiming import HELD
from cqrs_fastapi.outbox.outgoing import home_of
from cqrs_fastapi.outbox.pending import OF_COLUMNS, name_of
from cqrs_fastapi.storage.tables import Tables


def of_key(connection: Connection, tables: Tables, topic: str, key: bytes) -> list[Letter]:
    """The letters of a key that the relay has closed, in the order in which they were written."""
    letters = tables.dead_letters
    query = select(letters).where(letters.c.consumer == RELAY, letters.c.topic == topic, letters.c.key == key)
    return [letter_of(row) for row in connection.execute(query.order_by(letters.c.offset)).mappings()]


def put_back_key(connection: Connection, tables: Tables, topic: str, key: bytes, *, now: datetime) -> int:
    """All letters of a key, which is open then; how many. None is parked behind them meanwhile."""
    parked_keys.lock(connection, tables, RELAY, name_of(topic, key.decode()))
    letters = of_key(connection, tables, topic, key)
    if letters:
        put_back(connection, tables, letters, now=now)
    return len(letters)


def put_back(connection: Connection, tables: Tables, letters: Sequence[Letter], *, now: datetime) -> None:
    """All of them or LetterTakenError. They get their old positions, which stand before those of whatever was written
    to their keys since, and keep their message ids. A key in which no letter is left is opened.
    """
    names = sorted({name for one in letters if (name := _name(one)) is not None})
    for name in names:
        parked_keys.lock(connection, tables, RELAY, name)
    held = _held(connection, tables, names)
    ids = [one.id for one in letters]
    gone = connection.execute(delete(tables.dead_letters).where(tables.dead_letters.c.id.in_(ids)))
    if gone.rowcount != len(letters):
        raise LetterTakenError("some of these dead letters were put back or discarded by somebody else meanwhile")
    connection.execute(insert(tables.outbox), [_row(one, now, is_held=_name(one) in held) for one in letters])
    for one in {_name(one): one for one in letters if one.key is not None}.values():
        open_if_empty(connection, tables, one)


def discard(connection: Connection, tables: Tables, letter: Letter) -> None:
    """It is never sent. LetterTakenError if it is gone already."""
    name = _name(letter)
    if name is not None:
        parked_keys.lock(connection, tables, RELAY, name)
    gone = connection.execute(delete(tables.dead_letters).where(tables.dead_letters.c.id == letter.id))
    if gone.rowcount != 1:
        raise LetterTakenError(f"dead letter {letter.id} was put back or discarded by somebody else meanwhile")
    open_if_empty(connection, tables, letter)


def open_if_empty(connection: Connection, tables: Tables, letter: Letter) -> None:
    """Let the relay send the key again, if no letter of it is left."""
    name = _name(letter)
    if name is not None and letter.key is not None and not of_key(connection, tables, letter.topic, letter.key):
        parked_keys.reopen(connection, tables, RELAY, name)


def _name(letter: Letter) -> str | None:
    return None if letter.key is None else name_of(letter.topic, letter.key.decode())


def _held(connection: Connection, tables: Tables, names: Sequence[str]) -> set[str]:
    """The keys of which some messages are aside: what is put back comes before them. Nobody opens them meanwhile."""
    blocked = tables.blocked_keys
    query = select(blocked.c.key).where(blocked.c.owner == HELD, blocked.c.key.in_(names)).order_by(blocked.c.key)
    return set(connection.execute(query.with_for_update()).scalars())


def _row(letter: Letter, now: datetime, *, is_held: bool) -> dict[str, Any]:
    key = None if letter.key is None else letter.key.decode()
    headers = {name: value for name, value in letter.headers.items() if name not in OF_COLUMNS}
    if letter.message_id is None:
        raise ValueError(f"dead letter {letter.id} has no message id, and so was never in the outbox")
    home, kind = home_of(key, letter.message_id), letter.headers.get("type", "")
    return {
        "position": letter.offset,
        "id": letter.message_id,
        "aggregatetype": (key or kind).partition("-")[0],
        "aggregateid": key or "",
        "type": kind,
        "topic": letter.topic,
        "key": key,
        "bucket": ASIDE - home if is_held else home,
        "headers": render_json(headers),
        "payload": letter.payload,
        "attempts": 0,
        "available_at": now,
        "tenant": letter.tenant,
        "created_at": now,
    }
