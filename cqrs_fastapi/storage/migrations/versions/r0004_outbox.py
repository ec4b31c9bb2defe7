"""What the relays and the outbox need."""

from __future__ import annotations

from alembic.operations import Operations

from cqrs_fastapi.storage.names import Names

revision = "0004"
down_revision = "0003"


def upgrade(op: Operations, names: Names) -> None:
    del op, names


def downgrade(op: Operations, names: Names) -> None:
    del op, names
