"""How far each projection is, written with its effects."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables


def advance(
    connection: Connection, tables: Tables, projection: str, partition: str, position: int, *, now: datetime
) -> None:
    """Raise the checkpoint of one partition; it never goes back."""
    checkpoints = tables.checkpoints
    statement = upsert(connection, checkpoints).values(
        projection=projection, partition=partition, position=position, updated_at=now
    )
    raised = statement.on_conflict_do_update(
        index_elements=[checkpoints.c.projection, checkpoints.c.partition],
        set_={"position": statement.excluded.position, "updated_at": statement.excluded.updated_at},
        where=checkpoints.c.position < statement.excluded.position,
    )
    connection.execute(raised)


def positions(connection: Connection, tables: Tables, projection: str) -> dict[str, int]:
    """The checkpoint of each partition."""
    checkpoints = tables.checkpoints
    query = select(checkpoints.c.partition, checkpoints.c.position).where(checkpoints.c.projection == projection)
    return {row.partition: row.position for row in connection.execute(query)}
