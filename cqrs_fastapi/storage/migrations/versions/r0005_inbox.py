"""What consumers and dead letters need."""

from __future__ import annotations

from alembic.operations import Operations

from cqrs_fastapi.storage.names import Names

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations, names: Names) -> None:
    del op, names


def downgrade(op: Operations, names: Names) -> None:
    del op, names
