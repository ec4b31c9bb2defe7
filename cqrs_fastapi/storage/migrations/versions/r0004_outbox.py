"""What the relays and the outbox need."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import UtcDateTime
from cqrs_fastapi.storage.migrations import append_function, append_function_0004
from cqrs_fastapi.storage.migrations.relay_functions import DROP, STATEMENTS
from cqrs_fastapi.storage.names import Names

revision = "0004"
down_revision = "0003"

_DROP_APPEND = "DROP FUNCTION {schema}{prefix}append"
_OWNER = "outbox"


def upgrade(op: Operations, names: Names) -> None:
    _relays(op, names)
    _keys(op, names)
    _owner(op, names)
    _vacuum(op, names)


def downgrade(op: Operations, names: Names) -> None:
    _undo_vacuum(op, names)
    _undo_owner(op, names)
    _undo_keys(op, names)
    _no_relays(op, names)


def _relays(op: Operations, names: Names) -> None:
    op.create_table(
        names.of("facts"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name=names.of("facts_pk")),
        schema=names.schema,
    )
    op.create_table(
        names.of("relay_members"),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("member", sa.Uuid, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("service", "member", name=names.of("relay_members_pk")),
        schema=names.schema,
    )
    _index(op, names, "held", ("topic", "key", "position"), "bucket BETWEEN -1000 AND -1")
    _index(op, names, "delayed", ("bucket", "available_at"), "bucket < -1000")
    if op.get_context().dialect.name == "postgresql":
        for statement in STATEMENTS:
            op.execute(sa.text(names.written(statement)))


def _no_relays(op: Operations, names: Names) -> None:
    if op.get_context().dialect.name == "postgresql":
        for statement in DROP:
            op.execute(sa.text(names.written(statement)))
    for index in ("held", "delayed"):
        op.drop_index(names.of(f"outbox_{index}_ix"), names.of("outbox"), schema=names.schema)
    for table in ("relay_members", "facts"):
        op.drop_table(names.of(table), schema=names.schema)


def _index(op: Operations, names: Names, name: str, columns: tuple[str, ...], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(
        names.of(f"outbox_{name}_ix"),
        names.of("outbox"),
        list(columns),
        schema=names.schema,
        postgresql_where=where,
        sqlite_where=where,
    )


def _keys(op: Operations, names: Names) -> None:
    """An event may be sent with another key than its stream."""
    _replace_append(op, names, append_function_0004.APPEND)


def _undo_keys(op: Operations, names: Names) -> None:
    _replace_append(op, names, append_function.APPEND)


def _replace_append(op: Operations, names: Names, statement: str) -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(sa.text(names.written(_DROP_APPEND)))
        op.execute(sa.text(names.written(statement)))


def _owner(op: Operations, names: Names) -> None:
    """A row that is always there, so that whoever changes it and whoever relies on it wait for each other."""
    leases = _leases(names)
    op.execute(sa.insert(leases).values(name=_OWNER, owner=None, epoch=0, expires_at=datetime.fromtimestamp(0, UTC)))


def _undo_owner(op: Operations, names: Names) -> None:
    leases = _leases(names)
    op.execute(sa.delete(leases).where(leases.c.name == _OWNER))


def _leases(names: Names) -> sa.TableClause:
    columns = (sa.column("name", sa.Text), sa.column("owner", sa.Uuid), sa.column("epoch", sa.BigInteger))
    return sa.table(names.of("leases"), *columns, sa.column("expires_at", UtcDateTime), schema=names.schema)


_VACUUM = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_vacuum_cost_delay": "0",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "10000",
    "vacuum_index_cleanup": "on",
}
"""A queue is empty or nearly so, whatever has passed through it: what counts is the number of rows that are dead, and
never their share. Index entries go with every vacuum, since it is they that an empty poll would step over.
"""


def _vacuum(op: Operations, names: Names) -> None:
    settings = ", ".join(f"{name} = {value}" for name, value in _VACUUM.items())
    _alter(op, names, f"SET ({settings})")


def _undo_vacuum(op: Operations, names: Names) -> None:
    _alter(op, names, f"RESET ({', '.join(_VACUUM)})")


def _alter(op: Operations, names: Names, change: str) -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(sa.text(names.written(f"ALTER TABLE {{schema}}{{prefix}}outbox {change}")))
