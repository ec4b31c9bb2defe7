"""Core statements that are compiled once and given to the driver as they are, where that is safe.

On SQLite a statement costs less than what SQLAlchemy does around it (measured: 84 us for the two statements of an
append by the driver, 327 us by `Connection.execute`). On PostgreSQL it is a third of a short read (230 us against 400
us of CPU), and is left out for reads that are in no transaction. All else takes the ordinary way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, SelectBase
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler

Row = Sequence[Any]
Process = Callable[[Any], Any] | None

Binds = tuple[tuple[str | None, Any], ...]
"""In their order: a parameter with what makes a driver's value of it, or None with a constant."""

_DIALECT = sqlite.dialect(paramstyle="qmark")
_POSTGRES = asyncpg.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has not typed it


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement with named parameters, all of which are given at each run; its constants stand in `binds`."""

    statement: Executable
    text: str
    binds: Binds
    results: tuple[Process, ...]
    """For each column of the result, what makes a value of the driver's."""
    is_plain: bool
    """Whether the driver of PostgreSQL gives all values as they are: a row of SQLAlchemy's takes half as long as the
    fetching of it.
    """
    read: tuple[str, Binds] | None
    """For a statement that only reads, what `text` and `binds` are on PostgreSQL."""

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """Run it and fetch everything."""
        if not _is_sqlite(connection):
            if self.read is not None and self.is_plain and _commits_by_itself(connection):
                return self._read_directly(connection, parameters, *self.read)
            return self._fetched(connection.execute(self.statement, dict(parameters)))
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self.text, _bound(self.binds, parameters))
            return [self._read(row) for row in cursor.fetchall()]
        finally:
            cursor.close()

    def scalar(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """The first column of the first row, or None."""
        rows = self.rows(connection, parameters)
        return rows[0][0] if rows else None

    def run_each(self, connection: Connection, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Run it for each set of parameters, in their order."""
        if not _is_sqlite(connection):
            connection.execute(self.statement, [dict(one) for one in parameters])
            return
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(self.text, [_bound(self.binds, one) for one in parameters])
        finally:
            cursor.close()

    def _fetched(self, result: CursorResult[Any]) -> Sequence[Row]:
        if not self.is_plain or result.cursor is None:
            return result.all()
        rows: Sequence[Row] = result.cursor.fetchall()
        result.close()
        return rows

    def _read_directly(
        self, connection: Connection, parameters: Mapping[str, Any], text: str, binds: Binds
    ) -> Sequence[Row]:
        """By asyncpg alone. What fails is tried the ordinary way, by which the pool learns of connections that died."""
        arguments = _bound(binds, parameters)
        adapted: Any = connection.connection.dbapi_connection
        try:
            rows: Sequence[Row] = adapted.run_async(lambda driver: driver.fetch(text, *arguments))
        except Exception:  # noqa: BLE001  # it is not over: the other way raises it again, in the words of SQLAlchemy
            return self._fetched(connection.execute(self.statement, dict(parameters)))
        except BaseException:
            connection.invalidate()  # the answer that nobody waits for any more may still come
            raise
        return rows

    def _read(self, row: Row) -> Row:
        return [
            process(value) if process is not None else value for process, value in zip(self.results, row, strict=True)
        ]


def prepared(statement: Executable) -> Prepared:
    """Compile a statement once; keep the result for as long as its tables."""
    kinds = [column.type for column in _columns(statement)]
    results = tuple(_result(kind, _DIALECT) for kind in kinds)
    is_plain = all(_result(kind, _POSTGRES) is None for kind in kinds)
    read = _compiled(statement, _POSTGRES) if isinstance(statement, SelectBase) else None
    return Prepared(statement, *_compiled(statement, _DIALECT), results, is_plain, read)


def _compiled(statement: Executable, dialect: Dialect) -> tuple[str, Binds]:
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every executable of Core compiles
    if not isinstance(compiled, SQLCompiler):
        raise TypeError(f"{type(statement).__name__} is no statement of SQL")
    return str(compiled), tuple(_bind(compiled, name, dialect) for name in compiled.positiontup or [])


def _bind(compiled: SQLCompiler, name: str, dialect: Dialect) -> tuple[str | None, Any]:
    parameter = compiled.binds[name]
    process: Process = parameter.type.dialect_impl(dialect).bind_processor(dialect)
    if parameter.required:
        return name, process
    return None, parameter.value if process is None else process(parameter.value)


def _result(kind: Any, dialect: Dialect) -> Process:
    process: Process = kind.dialect_impl(dialect).result_processor(dialect, None)
    return process


def _columns(statement: Any) -> Sequence[Any]:
    """What a SELECT or a RETURNING gives."""
    returning = getattr(statement, "_returning", ())
    return list(returning) if returning else list(getattr(statement, "selected_columns", ()))


def _bound(binds: Binds, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        given if name is None else parameters[name] if given is None else given(parameters[name])
        for name, given in binds
    )


def _commits_by_itself(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"
