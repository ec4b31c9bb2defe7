"""Kinds of writers that only PostgreSQL knows: rows by hand, transactions that began long ago, prepared ones."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, insert, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError

from cqrs_fastapi.errors import UnavailableError, UnknownOutcomeError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.records import AppendUnit, StreamAppend
from cqrs_fastapi.storage.driver_errors import at_commit, before_commit, commit
from cqrs_fastapi.storage.tables import Tables
from cqrs_fastapi.testing.torture.field import Hand, RolledBackError, attempt
from cqrs_fastapi.testing.torture.load import Kind

_HELD = 0.5
"""How long a transaction stays prepared at most, in seconds."""


async def by_hand(hand: Hand) -> None:
    """Plain INSERTs, as a script of an operator has them; the trigger of the table takes the floor."""

    def work(connection: Connection, *, unit: AppendUnit) -> Mapping[str, int]:
        return {one.stream: _insert(connection, hand.database.tables, unit, one) for one in unit.appends}

    async def write(unit: AppendUnit) -> Mapping[str, int]:
        return await hand.database.write(lambda connection: work(connection, unit=unit))

    await attempt(hand, hand.unit(streams=2), write)


async def late(hand: Hand) -> None:
    """Has a transaction id long before it appends, so that ids are not in the order of positions."""

    async def write(unit: AppendUnit) -> Mapping[str, int]:
        async with hand.database.session() as session:
            await hand.database.run(session, lambda connection: connection.execute(_DRAW_ID).scalar())
            await hand.field.pause(hand.field.slow / 3)
            versions = await hand.database.run(
                session, lambda connection: append(connection, hand.database.tables, unit)
            )
            await commit(session)
            return versions

    await attempt(hand, hand.unit(), write)


async def prepared(hand: Hand) -> None:
    """The first phase, a while that belongs to no process, and the second phase: by a commit or by a rollback."""

    async def write(unit: AppendUnit) -> Mapping[str, int]:
        versions, name = await _prepare(hand, unit)
        await hand.field.pause(_HELD)
        if hand.field.random.random() < 0.3:  # noqa: PLR2004  # some of them
            await _end(hand, f"ROLLBACK PREPARED '{name}'")
            raise RolledBackError
        await _end(hand, f"COMMIT PREPARED '{name}'")
        return versions

    await attempt(hand, hand.unit(streams=2, private=hand.field.random.random() < 0.9), write)  # noqa: PLR2004  # most of them


KINDS: tuple[Kind, ...] = (by_hand, late)

_DRAW_ID = text("SELECT pg_current_xact_id()::text")


async def _prepare(hand: Hand, unit: AppendUnit) -> tuple[Mapping[str, int], str]:
    """UnknownOutcomeError if it may have been prepared: whoever clears up decides what becomes of it."""
    name = f"{hand.field.name}{hand.number}_{hand.field.random.getrandbits(48):x}"
    async with hand.database.engine.connect() as connection:
        with before_commit():
            versions = await connection.run_sync(append, hand.database.tables, unit)
        with at_commit():
            await connection.exec_driver_sql(f"PREPARE TRANSACTION '{name}'")
        await connection.rollback()  # of nothing, since the transaction is the server's now
    return versions, name


async def _end(hand: Hand, statement: str) -> None:
    """Anything but success leaves open what happened: the statement, or whoever clears up, may have been first."""
    try:
        await hand.database.read(lambda connection: connection.exec_driver_sql(statement).close())
    except (DBAPIError, UnavailableError) as error:
        raise UnknownOutcomeError("the second phase of a prepared transaction got no answer") from error


def _insert(connection: Connection, tables: Tables, unit: AppendUnit, one: StreamAppend) -> int:
    """The stream's row first, locked to the end, then its events."""
    streams = tables.streams
    count = len(one.events)
    row = {"tenant": unit.tenant, "stream": one.stream, "category": one.category, "version": count}
    raised = (
        upsert(streams)
        .values(row)
        .on_conflict_do_update(
            index_elements=[streams.c.tenant, streams.c.stream], set_={"version": streams.c.version + count}
        )
        .returning(streams.c.version)
    )
    last: int = connection.execute(raised).scalar_one()
    rows = [
        {
            "message_id": event.message_id,
            "tenant": unit.tenant,
            "stream": one.stream,
            "version": version,
            "category": one.category,
            "type": event.type,
            "schema_version": event.schema_version,
            "data": event.data,
            "meta": event.metadata,
            "recorded_at": unit.now,
        }
        for version, event in enumerate(one.events, start=last - count + 1)
    ]
    connection.execute(insert(tables.events), rows)
    return last
