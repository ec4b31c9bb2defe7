"""The events of root entities, as tests write them: what happened, and nothing about when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.domain.root_events import Changed, Created, Deleted
from cqrs_fastapi.messages.events import EventTypes, event_types_of

R = TypeVar("R", bound=RootEntity)
T = TypeVar("T")

AN_ID = UUID("00000000-0000-7000-8000-000000000001")
"""Of aggregates whose id does not matter."""
A_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""Of events whose time does not matter."""


def created(root: type[R], /, *, id: UUID = AN_ID, at: datetime = A_TIME, **fields: object) -> Created[R]:
    """`created(Product, price=3)`: the event of a root that begins with these fields."""
    new = root(id)
    new.update(**fields)
    new.begin(at)
    new.record_changes(at)
    events: tuple[Any, ...] = new.recorded
    event: Created[R] = events[0]
    return event


def changed(
    field: EventTypes[Changed[R, T]] | type[Changed[R, T]],
    value: T,
    /,
    *,
    id: UUID = AN_ID,
    at: datetime = A_TIME,
) -> Changed[R, T]:
    """`changed(Product.price, 5)`; of a set, `changed(Product.tags.created, Tag(name="new"))`, or `.updated`, or
    `.deleted`.
    """
    types = event_types_of(field)
    if len(types) != 1:
        raise TypeError(f"{field} is a set; write which change of a member it is: .created, .updated or .deleted")
    (event_type,) = types
    event: Changed[R, T] = event_type(id=id, at=at, value=value)
    return event


def deleted(root: type[R], /, *, id: UUID = AN_ID, at: datetime = A_TIME) -> Deleted[R]:
    """`deleted(Product)`: the event of a root that is gone."""
    event: Deleted[R] = root.__events__.deleted(id=id, at=at)
    return event
