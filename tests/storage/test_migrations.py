"""The framework's revisions: equal to the tables of the code, reversible, safe to run twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import Connection, MetaData, create_engine, inspect, text

from cqrs_fastapi import migrations
from cqrs_fastapi.errors import SchemaAheadError, SchemaBehindError, SchemaMismatchError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import build_tables

pytestmark = pytest.mark.anyio


def table_names(connection: Connection, schema: str | None = None) -> set[str]:
    return set(inspect(connection).get_table_names(schema))


async def migrate(database: Database, work: Callable[..., None], **names: str) -> None:
    """On a connection that is in no transaction, as an `env.py` has it."""
    async with database.engine.connect() as connection:
        await connection.run_sync(partial(work, **names))


async def test_a_fresh_upgrade_makes_exactly_the_tables_of_the_code(database_url: str) -> None:
    database = Database(Settings(database_url=database_url))
    await migrate(database, migrations.upgrade)
    await migrate(database, migrations.check)
    async with database.engine.connect() as connection:
        found = await connection.run_sync(table_names)
    assert found == {table.name for table in database.tables.all()} | {"cqrs_alembic_version"}
    await database.close()


async def test_a_downgrade_to_base_leaves_nothing_and_an_upgrade_brings_all_back(database: Database) -> None:
    await database.write(lambda connection: connection.execute(text("CREATE TABLE theirs (id INTEGER)")) and None)
    await migrate(database, migrations.downgrade, revision="base")
    assert await database.read(table_names) == {"theirs"}
    with pytest.raises(SchemaBehindError, match="has no cqrs_fastapi tables"):
        await database.check_schema()
    await migrate(database, migrations.upgrade)
    await database.check_schema()
    await migrate(database, migrations.check)


async def test_prefix_and_schema_are_honoured(postgres_url: str) -> None:
    names = {"prefix": "shop_", "schema": "framework"}
    settings = Settings(database_url=postgres_url, table_prefix="shop_", database_schema="framework")
    database = Database(settings)
    await migrate(database, migrations.upgrade, **names)
    await migrate(database, migrations.check, **names)
    await database.check_schema()
    found = await database.read(partial(table_names, schema="framework"))
    assert "shop_events" in found
    assert "shop_alembic_version" in found
    assert await database.read(table_names) == set()
    await migrate(database, migrations.downgrade, revision="base", **names)
    assert await database.read(partial(table_names, schema="framework")) == set()
    await database.close()


async def test_a_prefix_is_honoured_on_sqlite(sqlite_url: str) -> None:
    database = Database(Settings(database_url=sqlite_url, table_prefix="shop_"))
    await database.open()
    await migrate(database, migrations.check, prefix="shop_")
    assert all(name.startswith("shop_") for name in await database.read(table_names))
    await database.close()


async def test_two_prefixes_live_in_one_database(database: Database) -> None:
    await migrate(database, migrations.upgrade, prefix="other_")
    await migrate(database, migrations.check, prefix="other_")
    await migrate(database, migrations.downgrade, prefix="other_", revision="base")
    await migrate(database, migrations.check)


async def test_the_default_schema_may_be_named(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url, database_schema="public"))
    await migrate(database, migrations.upgrade, schema="public")
    await migrate(database, migrations.check, schema="public")
    await database.check_schema()
    await database.close()


async def test_a_change_by_hand_is_found_and_named(database: Database) -> None:
    await database.write(
        lambda connection: connection.execute(text("DROP INDEX cqrs_events_type_position_ix")) and None
    )
    with pytest.raises(SchemaMismatchError, match="cqrs_events_type_position_ix"):
        await migrate(database, migrations.check)


async def test_a_database_of_newer_code_is_refused_by_every_way_in(database: Database) -> None:
    newer = text("UPDATE cqrs_alembic_version SET version_num = '9999'")
    await database.write(lambda connection: connection.execute(newer) and None)
    with pytest.raises(SchemaAheadError, match="9999, which this code does not know"):
        await database.check_schema()
    with pytest.raises(SchemaAheadError):
        await migrate(database, migrations.upgrade)
    if database.dialect == "sqlite":
        with pytest.raises(SchemaAheadError):
            await database.open()


async def test_a_failing_upgrade_leaves_nothing_behind(database_url: str) -> None:
    database = Database(Settings(database_url=database_url))
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE cqrs_leases (id INTEGER)"))
    with pytest.raises(Exception, match="already exists"):
        await migrate(database, migrations.upgrade)
    async with database.engine.connect() as connection:
        assert await connection.run_sync(table_names) == {"cqrs_leases"}
    await database.close()


async def test_two_upgrades_at_once_do_no_harm(database_url: str) -> None:
    databases = [Database(Settings(database_url=database_url)) for _ in range(4)]
    await asyncio.gather(*(migrate(database, migrations.upgrade) for database in databases))
    await migrate(databases[0], migrations.check)
    await asyncio.gather(*(database.close() for database in databases))


async def test_several_processes_may_open_a_new_file_at_once(sqlite_url: str) -> None:
    databases = [Database(Settings(database_url=sqlite_url)) for _ in range(4)]
    await asyncio.gather(*(database.open() for database in databases))
    await databases[0].check_schema()
    await asyncio.gather(*(database.close() for database in databases))


def test_a_connection_of_somebody_else_is_upgraded_in_one_transaction(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url.replace("+aiosqlite", ""))
    with engine.connect() as connection:
        migrations.upgrade(connection)
        connection.rollback()
        migrations.check(connection)
    engine.dispose()


def test_the_caller_of_an_upgrade_may_undo_it_with_its_own_transaction(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url.replace("+aiosqlite", ""))
    with engine.connect() as connection:
        with connection.begin() as transaction:
            migrations.upgrade(connection)
            transaction.rollback()
        assert table_names(connection) == set()
    engine.dispose()


def test_every_constraint_has_a_name_that_both_databases_can_hold() -> None:
    for table in build_tables(MetaData(), prefix="a" * 31).all():
        names = [constraint.name for constraint in table.constraints] + [index.name for index in table.indexes]
        assert None not in names
        assert all(len(str(name)) <= 63 for name in names)
