"""Brings the framework's tables to a revision and compares them with what the code expects.

Alembic's parts are used without an `env.py`: its `EnvironmentContext` and `op` are one per process, and the
application's own `env.py` is in the middle of using them when it calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, func, inspect, select
from sqlalchemy.schema import CreateSchema

from cqrs_fastapi.errors import SchemaAheadError, SchemaBehindError, SchemaMismatchError
from cqrs_fastapi.storage.dialects import is_postgres
from cqrs_fastapi.storage.names import Names
from cqrs_fastapi.storage.tables import build_tables

SCRIPTS = Path(__file__).parent / "migrations"

_Steps = Callable[[Any, MigrationContext], Any]


def upgrade(
    connection: Connection, *, prefix: str = "cqrs_", schema: str | None = None, revision: str = "head"
) -> None:
    """Applies what is missing up to `revision`, all of it or nothing.

    A transaction that the connection is already in is joined and left to its owner; without one, this commits its own.
    Of two processes that upgrade at once one waits, and then finds nothing to do. SchemaAheadError if newer code was
    here.
    """
    scripts = _scripts()

    def steps(found: Any, _: MigrationContext) -> Any:
        return scripts._upgrade_revs(revision, found)  # noqa: SLF001  # what alembic's own command calls

    with _transaction(connection):
        _make_schema(connection, schema)
        _migrate(connection, Names(prefix, schema), scripts, steps)


def downgrade(connection: Connection, *, revision: str, prefix: str = "cqrs_", schema: str | None = None) -> None:
    """Takes revisions back, `base` takes the tables away with all they hold. Transactions as in `upgrade`."""
    scripts = _scripts()

    def steps(found: Any, _: MigrationContext) -> Any:
        return scripts._downgrade_revs(revision, found)  # noqa: SLF001  # what alembic's own command calls

    names = Names(prefix, schema)
    with _transaction(connection):
        _migrate(connection, names, scripts, steps)
        if revision == "base":
            _context(connection, names)._version.drop(connection, checkfirst=True)  # noqa: SLF001  # alembic leaves it empty behind


def current(connection: Connection, *, prefix: str = "cqrs_", schema: str | None = None) -> str | None:
    """The revision of the framework's tables; None where there are none."""
    return _context(connection, Names(prefix, schema)).get_current_revision()


def head() -> str:
    """The revision this code expects."""
    found = _scripts().get_current_head()
    if found is None:
        raise SchemaMismatchError(["the package holds no revisions: it was installed without its migrations"])
    return found


def require_head(connection: Connection, *, prefix: str = "cqrs_", schema: str | None = None) -> None:
    """SchemaBehindError unless the tables are at the head; SchemaAheadError, a kind of it, if newer code was here."""
    found, expected = current(connection, prefix=prefix, schema=schema), head()
    if found == expected:
        return
    if found is not None and not _known(found):
        raise SchemaAheadError(found=found, expected=expected)
    raise SchemaBehindError(found=found, expected=expected)


def check(connection: Connection, *, prefix: str = "cqrs_", schema: str | None = None) -> None:
    """SchemaBehindError unless at the head; SchemaMismatchError with each difference if tables were changed by hand.

    Tables that are not the framework's are ignored.
    """
    require_head(connection, prefix=prefix, schema=schema)
    # The reflected name of a table in the default schema has no schema, whatever the settings call it.
    reflected = None if schema == connection.dialect.default_schema_name else schema
    expected = MetaData()
    ours = {table.name for table in build_tables(expected, prefix, reflected).all()}

    def include(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == reflected
        return name in ours if kind == "table" else parents["table_name"] in ours

    context = _context(connection, Names(prefix, schema), include_name=include, include_schemas=reflected is not None)
    differences = compare_metadata(context, expected)
    if differences:
        raise SchemaMismatchError([str(difference) for difference in differences])


def is_framework_table(name: str, *, prefix: str = "cqrs_") -> bool:
    """Whether a table of this name belongs to the framework, for `include_name` of an application's `env.py`."""
    names = Names(prefix)
    return name == names.version_table or any(name == table.name for table in build_tables(MetaData(), prefix).all())


def lock(connection: Connection, *, prefix: str = "cqrs_", schema: str | None = None) -> None:
    """Lets one migration at a time pass, until the end of the connection's transaction, which must have begun."""
    if is_postgres(connection):
        key = crc32(f"cqrs_fastapi.migrations:{schema}:{prefix}".encode())
        connection.execute(select(func.pg_advisory_xact_lock(key)))
        return
    # A driver in its old mode begins nothing before a CREATE TABLE; ours has begun and says so.
    if not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]  # sqlite3 and aiosqlite both have it
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: Connection, names: Names, scripts: ScriptDirectory, steps: _Steps) -> None:
    lock(connection, prefix=names.prefix, schema=names.schema)
    found = current(connection, prefix=names.prefix, schema=names.schema)
    if found is not None and not _known(found):
        raise SchemaAheadError(found=found, expected=head())
    context = _context(connection, names, fn=steps, script=scripts)
    context.run_migrations(op=Operations(context), names=names)


def _make_schema(connection: Connection, schema: str | None) -> None:
    """Asked before made: CREATE SCHEMA IF NOT EXISTS needs a right that an existing schema's owner may lack."""
    if schema is not None and not inspect(connection).has_schema(schema):
        connection.execute(CreateSchema(schema, if_not_exists=True))


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    if connection.in_transaction():
        yield
    else:
        with connection.begin():
            yield


def _context(connection: Connection, names: Names, **options: Any) -> MigrationContext:
    options |= {"version_table": names.version_table, "version_table_schema": names.schema, "transactional_ddl": True}
    return MigrationContext.configure(connection, opts=options)


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(SCRIPTS))


def _known(revision: str) -> bool:
    return any(script.revision == revision for script in _scripts().walk_revisions())
