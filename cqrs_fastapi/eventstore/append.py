"""Appends one unit in a transaction of the caller's: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from cqrs_fastapi.eventstore.append_call import answers_of, arguments_for, statement_for
from cqrs_fastapi.eventstore.append_statements import append_by_statements
from cqrs_fastapi.eventstore.records import AppendUnit
from cqrs_fastapi.storage.dialects import is_postgres
from cqrs_fastapi.storage.tables import Tables


def append(connection: Connection, tables: Tables, unit: AppendUnit) -> Mapping[str, int]:
    """The new version of each stream.

    Raises ConcurrencyError, StreamClosedError, and RepeatedError where the unit's record exists already; nothing of the
    unit was written then.
    """
    if not is_postgres(connection):
        return append_by_statements(connection, tables, unit)
    arguments = tuple(arguments_for([unit], waits=True))
    row = connection.exec_driver_sql(statement_for(tables), arguments).one()
    (answer,) = answers_of([unit], row)
    if answer.error is not None:
        raise answer.error
    return answer.versions
