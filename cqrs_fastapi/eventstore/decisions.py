"""Decisions on events of any stream, found by their types and tags (a dynamic consistency boundary).

What a decision has read is the condition of its append: nothing that matches may have come since. A plain "after the
highest position read" would overlook an event with a lower position that is committed later; so the condition is
"after the position up to which everything is known, except at the higher positions that were read".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from cqrs_fastapi.eventstore.horizon import read_horizon
from cqrs_fastapi.eventstore.read import stored_columns
from cqrs_fastapi.eventstore.records import Condition, Matching, RecordedEvent, StoredEvent
from cqrs_fastapi.messages.events import AnyEvent, definition_of, tag
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Decision:
    """The events that match, in the order of their positions, and the condition that they are all."""

    events: Sequence[RecordedEvent]
    condition: Condition


def matching(*types: type[AnyEvent], **tags: object) -> Matching:
    """Events of one of these types that carry all of these tags: `matching(Enrolled, course=course_id)`.

    A field that an event does not declare as a tag is a TypeError, as is a matching that names nothing.
    """
    if not types and not tags:
        raise TypeError("a matching names types, tags or both: matching(Enrolled, course=course_id)")
    for one in types:
        declared = definition_of(one).tags
        if not declared:
            raise TypeError(f"{one.__name__} carries no tags; write: class {one.__name__}(Event, tags=('field',))")
        if unknown := [name for name in tags if name not in declared]:
            raise TypeError(f"{one.__name__} carries no tag {', '.join(unknown)}, but {', '.join(declared)}")
    names = tuple(dict.fromkeys(definition_of(one).name for one in types))
    return Matching(names, tuple(tag(name, value) for name, value in sorted(tags.items())))


def read_matching(
    connection: Connection, tables: Tables, tenant: str, wanted: Sequence[Matching]
) -> tuple[list[StoredEvent], Condition]:
    """What matches now. The horizon is read first, in statements of its own."""
    horizon = read_horizon(connection, tables)
    events = tables.events
    rows = connection.execute(
        select(*stored_columns(tables))
        .where(events.c.tenant == tenant, or_(*(_condition(tables, tenant, one) for one in wanted)))
        .order_by(events.c.position)
    ).all()
    stored = [StoredEvent(*row) for row in rows]
    seen = tuple(one.position for one in stored if one.position > horizon.safe)
    return stored, Condition(horizon.safe, seen, tuple(wanted))


def _condition(tables: Tables, tenant: str, wanted: Matching) -> ColumnElement[bool]:
    events, tags = tables.events, tables.event_tags
    conditions: list[ColumnElement[bool]] = [
        events.c.position.in_(select(tags.c.position).where(tags.c.tenant == tenant, tags.c.tag == one))
        for one in wanted.tags
    ]
    if wanted.types:
        conditions.append(events.c.type.in_(wanted.types))
    return and_(*conditions)
