"""The few words that the two databases spell differently."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, Table, cast, func, literal, literal_column
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from cqrs_fastapi.storage.column_types import UtcDateTime

_SQLITE_MOMENT = "%Y-%m-%dT%H:%M:%f000+00:00"
"""The form of `utc_text`; SQLite's clock has milliseconds."""


def is_postgres(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def upsert(connection: Connection, table: Table) -> PostgresInsert | SqliteInsert:
    """An INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`, which both databases read alike."""
    return upsert_of(connection.dialect.name, table)


def upsert_of(dialect: str, table: Table) -> PostgresInsert | SqliteInsert:
    """The same for a dialect's name, to make a statement before there is a connection."""
    return postgres_insert(table) if dialect == "postgresql" else sqlite_insert(table)


def database_now(connection: Connection, *, after: timedelta = timedelta(0)) -> ColumnElement[datetime]:
    """The database's own clock when the statement runs (not when its transaction began), `after` later."""
    seconds = after.total_seconds()
    if is_postgres(connection):
        later = cast(literal(seconds), Float) * literal_column("interval '1 second'")
        return func.clock_timestamp(type_=UtcDateTime()).op("+", return_type=UtcDateTime())(later)
    modifier = f"{seconds:+.3f} seconds"
    expression: ColumnElement[Any] = func.strftime(_SQLITE_MOMENT, "now", modifier, type_=UtcDateTime())
    return expression


def seconds_until(connection: Connection, moment: ColumnElement[Any]) -> ColumnElement[float]:
    """From the database's own clock to a stored moment; negative if that has passed."""
    if is_postgres(connection):
        return cast(func.extract("epoch", moment - func.clock_timestamp()), Float)
    days: ColumnElement[Any] = func.julianday(moment) - func.julianday("now")
    return cast(days * 86_400.0, Float)
