"""How far each reader of the store is, written with its effects.

A checkpoint remembers which event it stands behind and how high the sequence was, so that a reader notices when the
store is not the one that it has read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, update

from cqrs_fastapi.errors import CqrsError, HistoryChangedError
from cqrs_fastapi.eventstore.horizon import Horizon
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.prepared import Prepared, prepared
from cqrs_fastapi.storage.tables import Tables

STORE = "store"
"""The one partition of a reader that takes all events of the store in their order."""


class CheckpointMovedError(CqrsError):
    """Somebody else has moved the checkpoint: what was done from it must leave nothing."""

    code = "checkpoint_moved"

    def __init__(self, name: str, position: int) -> None:
        super().__init__(f"the checkpoint of {name} is no longer at position {position}; read it again and go on there")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All up to `position` is settled. `message_id` is the last event at or below it, None if there is none."""

    name: str
    position: int
    message_id: UUID | None
    highest: int


def read_checkpoints(connection: Connection, tables: Tables, names: Iterable[str]) -> dict[str, Checkpoint]:
    """Those of these readers that have one."""
    checkpoints = tables.checkpoints
    query = select(
        checkpoints.c.projection, checkpoints.c.position, checkpoints.c.message_id, checkpoints.c.highest
    ).where(checkpoints.c.projection.in_(list(names)), checkpoints.c.partition == STORE)
    return {row.projection: Checkpoint(*row) for row in connection.execute(query)}


def read_checkpoint(connection: Connection, tables: Tables, name: str) -> Checkpoint | None:
    return read_checkpoints(connection, tables, [name]).get(name)


def start(
    connection: Connection, tables: Tables, name: str, horizon: Horizon, *, from_start: bool, now: datetime
) -> None:
    """Record where a new reader begins: at W, or before all events. One that was recorded before is left alone."""
    position = 0 if from_start else horizon.safe
    row = {
        "projection": name,
        "partition": STORE,
        "position": position,
        "updated_at": now,
        "message_id": last_event(connection, tables, position),
        "highest": horizon.highest,
    }
    connection.execute(upsert(connection, tables.checkpoints).on_conflict_do_nothing(), row)


def advance(connection: Connection, tables: Tables, before: Checkpoint, after: Checkpoint, *, now: datetime) -> None:
    """Compare and set; CheckpointMovedError unless the checkpoint is where `before` says. It never goes back."""
    if after.position < before.position:
        raise ValueError(f"the checkpoint of {before.name} cannot go back from {before.position} to {after.position}")
    values = {
        "of_projection": before.name,
        "of_position": before.position,
        "of_message_id": before.message_id,
        "position": after.position,
        "message_id": after.message_id,
        "highest": max(before.highest, after.highest),
        "updated_at": now,
    }
    if _advancing(tables).scalar(connection, values) is None:
        raise CheckpointMovedError(before.name, before.position)


def verify(connection: Connection, tables: Tables, checkpoint: Checkpoint, horizon: Horizon) -> None:
    """HistoryChangedError unless the store still holds what was passed. The horizon is one of this connection."""
    found = _contradiction(connection, tables, checkpoint, horizon)
    if found is not None:
        raise HistoryChangedError(reader=checkpoint.name, found=found, table=tables.checkpoints.fullname)


def last_event(connection: Connection, tables: Tables, position: int) -> UUID | None:
    """The last event at or below a position, archived ones included."""
    events = tables.events
    query = select(events.c.message_id).where(events.c.position <= position).order_by(events.c.position.desc()).limit(1)
    found: UUID | None = connection.execute(query).scalar()
    return found


@lru_cache(maxsize=16)
def _advancing(tables: Tables) -> Prepared:
    """Parameters of conditions begin with `of_`."""
    checkpoints = tables.checkpoints
    passed = bindparam("of_message_id", type_=checkpoints.c.message_id.type)
    written = ("position", "message_id", "highest", "updated_at")
    statement = (
        update(checkpoints)
        .where(checkpoints.c.projection == bindparam("of_projection"), checkpoints.c.partition == STORE)
        .where(checkpoints.c.position == bindparam("of_position"))
        # Truncation points a checkpoint at the event before the deleted one: what was read before that is read again.
        .where(checkpoints.c.message_id.is_not_distinct_from(passed))
        .values({checkpoints.c[name]: bindparam(name) for name in written})
    )
    return prepared(statement.returning(checkpoints.c.position))


def _contradiction(connection: Connection, tables: Tables, checkpoint: Checkpoint, horizon: Horizon) -> str | None:
    if checkpoint.position > horizon.highest:
        return f"it is at position {checkpoint.position}, and no position above {horizon.highest} was ever drawn"
    if checkpoint.highest > horizon.highest:
        return f"the last position drawn was {checkpoint.highest} once and is {horizon.highest} now"
    last = last_event(connection, tables, checkpoint.position)
    if last != checkpoint.message_id:
        passed, now = checkpoint.message_id or "none", last or "none"
        return f"the last event up to position {checkpoint.position} was {passed} and is {now} now"
    return None
