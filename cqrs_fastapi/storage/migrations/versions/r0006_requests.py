"""What commands over the broker need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from cqrs_fastapi.storage.column_types import JsonText
from cqrs_fastapi.storage.names import Names

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations, names: Names) -> None:
    op.add_column(names.of("inbox"), sa.Column("reply", JsonText), schema=names.schema)


def downgrade(op: Operations, names: Names) -> None:
    op.drop_column(names.of("inbox"), "reply", schema=names.schema)
