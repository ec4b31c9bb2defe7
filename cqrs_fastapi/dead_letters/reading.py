"""What is parked: found, listed and counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select

from cqrs_fastapi.dead_letters.parking import Letter, letter_of
from cqrs_fastapi.errors import NotFoundError
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.tables import Tables

PAGE = 500


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one consumer: `dead` wait for somebody, `waiting` are tried again by themselves, `behind` wait for others."""

    dead: int = 0
    waiting: int = 0
    behind: int = 0


def find(connection: Connection, tables: Tables, identifier: UUID) -> Letter | None:
    letters = tables.dead_letters
    row = connection.execute(select(letters).where(letters.c.id == identifier)).mappings().first()
    return None if row is None else letter_of(row)


def require(connection: Connection, tables: Tables, identifier: UUID) -> Letter:
    """NotFoundError if it is no longer there, or never was."""
    letter = find(connection, tables, identifier)
    if letter is None:
        raise NotFoundError(kind="dead letter", identifier=str(identifier))
    return letter


def head(connection: Connection, tables: Tables, consumer: str, sequence: str) -> Letter | None:
    """The first letter of a closed key."""
    letters = tables.dead_letters
    query = select(letters).where(letters.c.consumer == consumer, letters.c.sequence == sequence)
    row = connection.execute(query.order_by(letters.c.ordinal).limit(1)).mappings().first()
    return None if row is None else letter_of(row)


def due(connection: Connection, tables: Tables, limit: int) -> list[Letter]:
    """Those whose time has come to be tried again by themselves, the longest due first."""
    letters = tables.dead_letters
    query = select(letters).where(letters.c.retry_at <= database_now(connection))
    return [letter_of(row) for row in connection.execute(query.order_by(letters.c.retry_at).limit(limit)).mappings()]


def page(
    connection: Connection,
    tables: Tables,
    *,
    consumer: str | None = None,
    sequence: str | None = None,
    after: Letter | None = None,
    limit: int = PAGE,
) -> list[Letter]:
    """The oldest first, those of one key in their order; `after` is the last one of the page before."""
    letters = tables.dead_letters
    query = select(letters).order_by(letters.c.parked_at, letters.c.id).limit(limit)
    conditions: list[ColumnElement[bool]] = []
    if consumer is not None:
        conditions.append(letters.c.consumer == consumer)
    if sequence is not None:
        conditions.append(letters.c.sequence == sequence)
    if after is not None:
        later = (letters.c.parked_at == after.parked_at) & (letters.c.id > after.id)
        conditions.append((letters.c.parked_at > after.parked_at) | later)
    return [letter_of(row) for row in connection.execute(query.where(*conditions)).mappings()]


def counts(connection: Connection, tables: Tables) -> dict[str, Counts]:
    """By consumer; one without letters is left out."""
    letters = tables.dead_letters
    waits, behind = letters.c.retry_at.is_not(None), letters.c.code == "behind"
    query = select(letters.c.consumer, waits, behind, func.count()).group_by(letters.c.consumer, waits, behind)
    return dict(_summed(connection.execute(query)))


def _summed(rows: Any) -> Iterator[tuple[str, Counts]]:
    found: dict[str, dict[str, int]] = {}
    for consumer, waits, is_behind, number in rows:
        kind = "waiting" if waits else "behind" if is_behind else "dead"
        of_it = found.setdefault(consumer, {})
        of_it[kind] = of_it.get(kind, 0) + number
    for consumer, of_it in sorted(found.items()):
        yield consumer, Counts(**of_it)


def told(found: dict[str, Counts]) -> str:
    """For people, in one line."""
    if not found:
        return "none"
    return "; ".join(
        f"{name}: {one.dead} dead, {one.waiting} waiting, {one.behind} behind" for name, one in sorted(found.items())
    )
