"""What becomes of a letter: taken up for a replay, failed again, changed by hand, or gone. Parts of transactions.

Each of them locks the row of the letter's key first, so that one thing at a time happens to a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, delete, func, update

from cqrs_fastapi.dead_letters import parked_keys
from cqrs_fastapi.dead_letters.parking import Letter, Reason
from cqrs_fastapi.dead_letters.reading import head, require
from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.messages.json_codec import render_json
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.tables import Tables


class LetterTakenError(CqrsError):
    """Somebody else replays, edits or discards the letter at this moment, or has done so. Nothing was changed."""

    code = "letter_taken"


class NotFirstError(CqrsError):
    """Other letters of the key come before this one. Nothing was changed."""

    code = "not_first"


def take_up(
    connection: Connection, tables: Tables, identifier: UUID, *, patience: timedelta, out_of_order: bool = False
) -> Letter:
    """Count a dispatch of the letter before it begins; the letter as it is now, and as it was but for that count.

    For as long as `patience` nobody else takes it up: LetterTakenError. NotFirstError unless it is the first of its
    key, or the order is not to be kept.
    """
    letters = tables.dead_letters
    letter = _locked(connection, tables, identifier)
    if not out_of_order:
        require_first(connection, tables, letter)
    fresh = letters.c.dispatched_at > database_now(connection, after=-patience)
    changed: dict[str, object] = {"attempts": letter.attempts + 1, "dispatched_at": database_now(connection)}
    if letter.retry_at is not None:
        changed["retry_at"] = database_now(connection, after=patience)
    taken = connection.execute(
        update(letters)
        .where(letters.c.id == identifier, letters.c.attempts == letter.attempts, ~func.coalesce(fresh, False))
        .values(changed)
    )
    if taken.rowcount != 1:
        raise LetterTakenError(f"dead letter {identifier} is being replayed by somebody else; wait for {patience}")
    return replace(letter, attempts=letter.attempts + 1)


def remove(connection: Connection, tables: Tables, letter: Letter) -> None:
    """In the transaction of its effect. The key is opened if nothing is left in it; else the next one takes the place,
    and is due if this one was. LetterTakenError if it is not as it was taken up.
    """
    if letter.sequence is not None:
        parked_keys.lock(connection, tables, letter.consumer, letter.sequence)
    letters = tables.dead_letters
    was_first = _is_first(connection, tables, letter)
    gone = connection.execute(delete(letters).where(letters.c.id == letter.id, letters.c.attempts == letter.attempts))
    if gone.rowcount != 1:
        raise LetterTakenError(f"dead letter {letter.id} was replayed, edited or discarded by somebody else meanwhile")
    if letter.sequence is None:
        return
    following = head(connection, tables, letter.consumer, letter.sequence)
    if following is None:
        parked_keys.reopen(connection, tables, letter.consumer, letter.sequence)
    elif was_first and letter.retry_at is not None:
        due = {"retry_at": database_now(connection)}
        connection.execute(update(letters).where(letters.c.id == following.id).values(due))


def fail(
    connection: Connection,
    tables: Tables,
    letter: Letter,
    reason: Reason,
    *,
    after: timedelta | None,
    counts: bool = True,
) -> None:
    """A replay has failed: the letter stays, with the new error. With `after` it is tried again by itself."""
    letters = tables.dead_letters
    changed = {
        "code": reason.code,
        "error": reason.error,
        "traceback": reason.traceback,
        "attempts": letter.attempts if counts else letter.attempts - 1,
        "dispatched_at": None,
        "retry_at": None if after is None else database_now(connection, after=after),
    }
    mine = (letters.c.id == letter.id, letters.c.attempts == letter.attempts)
    connection.execute(update(letters).where(*mine).values(changed))


def edit(
    connection: Connection,
    tables: Tables,
    identifier: UUID,
    *,
    payload: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Letter:
    """Change what will be replayed. The message keeps its id: a header `message-id` that says another is refused."""
    letter = _locked(connection, tables, identifier)
    if headers is not None and letter.message_id is not None:
        kept = letter.headers.get("message-id")
        if headers.get("message-id", kept) != kept:
            raise ValueError(f"the message keeps its id; leave the header 'message-id' at {kept}")
        headers = {**headers, **({"message-id": kept} if kept is not None else {})}
    edited = replace(
        letter,
        payload=letter.payload if payload is None else payload,
        headers=letter.headers if headers is None else headers,
    )
    letters = tables.dead_letters
    changed = {"payload": edited.payload, "headers": render_json(dict(edited.headers))}
    mine = (letters.c.id == identifier, letters.c.attempts == letter.attempts)
    if connection.execute(update(letters).where(*mine).values(changed)).rowcount != 1:
        raise LetterTakenError(f"dead letter {identifier} is being replayed by somebody else; edit it afterwards")
    return edited


def require_first(connection: Connection, tables: Tables, letter: Letter) -> None:
    if not _is_first(connection, tables, letter):
        raise NotFirstError(
            f"dead letter {letter.id} is not the first of its key for {letter.consumer}; replay the key, or the first "
            "of them, or this one out of order"
        )


def _is_first(connection: Connection, tables: Tables, letter: Letter) -> bool:
    if letter.sequence is None:
        return True
    first = head(connection, tables, letter.consumer, letter.sequence)
    return first is None or first.ordinal >= letter.ordinal


def _locked(connection: Connection, tables: Tables, identifier: UUID) -> Letter:
    """As it is once its key is locked."""
    letter = require(connection, tables, identifier)
    if letter.sequence is None:
        return letter
    parked_keys.lock(connection, tables, letter.consumer, letter.sequence)
    return require(connection, tables, identifier)
