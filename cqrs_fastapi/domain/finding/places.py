"""Where a searched value stands: in the state of a root entity, or in a column of its row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from cqrs_fastapi.domain.finding.kinds import Comparable, Form, comparable
from cqrs_fastapi.storage.column_types import utc_text

_NAME = re.compile(r"[^\W\d]\w*")


class RootState(NamedTuple):
    """A root entity at one of its versions, as its row holds it. `state` are JSON values, made by `render_state`."""

    id: UUID
    version: int
    state: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    """A deleted one has an empty state. No search finds it."""


@dataclass(frozen=True, slots=True)
class Place:
    """`path` are names of fields, from the root entity down. They are written into SQL, so that they must be names: no
    character that means something there can be part of one.
    """

    path: tuple[str, ...]
    form: Form
    is_column: bool = False

    def __post_init__(self) -> None:
        for name in self.path:
            if not _NAME.fullmatch(name):
                raise TypeError(f"{name!r} is no name of a field; write letters, digits and underscores")

    def __str__(self) -> str:
        return ".".join(self.path)

    def read(self, root: RootState) -> Comparable | None:
        """What is compared of a root entity; None if it has nothing there, or a value of another form."""
        if self.is_column:
            return _COLUMNS[self.path[0]](root)
        value: object = root.state
        for name in self.path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return comparable(self.form, value)


ID: Final = Place(("id",), Form.TEXT, is_column=True)
VERSION: Final = Place(("version",), Form.NUMBER, is_column=True)
CREATED_AT: Final = Place(("created_at",), Form.TEXT, is_column=True)
UPDATED_AT: Final = Place(("updated_at",), Form.TEXT, is_column=True)

_COLUMNS: Mapping[str, Callable[[RootState], Comparable]] = {
    "id": lambda root: str(root.id),
    "version": lambda root: Decimal(root.version),
    "created_at": lambda root: utc_text(root.created_at),
    "updated_at": lambda root: utc_text(root.updated_at),
}
_LARGEST_VERSION = (1 << 63) - 1


def column_value(place: Place, value: Comparable) -> UUID | int | datetime:
    """A compared value as the place's column holds it. ValueError for one that it cannot hold."""
    if place == ID:
        return UUID(str(value))
    if place == VERSION:
        version = int(value)
        if version != value or abs(version) > _LARGEST_VERSION:
            raise ValueError(f"{value} is no version")
        return version
    moment = datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError(f"{value} has no time zone")
    return moment.astimezone(UTC)
