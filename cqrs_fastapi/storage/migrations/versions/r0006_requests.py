"""What commands over the broker need."""

from __future__ import annotations

from alembic.operations import Operations

from cqrs_fastapi.storage.names import Names

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations, names: Names) -> None:
    del op, names


def downgrade(op: Operations, names: Names) -> None:
    del op, names
