"""Between root entities and the rows that hold their current states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.states import write_states
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Rows:
    """What a unit of work has changed, by category. It is falsy if there is nothing."""

    by_category: dict[str, list[RootState]]

    def __bool__(self) -> bool:
        return bool(self.by_category)

    def writing(self, tables: Tables, tenant: str) -> Callable[[Connection], None]:
        """Writes them all, in an order that is the same in every process, so that none waits for another in a circle.

        It belongs into the transaction that appends the events: their version check is the rows' too.
        """

        def write(connection: Connection) -> None:
            for category in sorted(self.by_category):
                write_states(connection, tables, tenant, category, self.by_category[category])

        return write


Conceals = Callable[[RootEntity, RootState], RootState]
"""Gives the row of a root with its personal values encrypted."""


def rows_of(aggregates: Iterable[Aggregate], conceal: Conceals) -> Rows:
    """Those of the root entities among them that have recorded something."""
    found: dict[str, list[RootState]] = {}
    for root in aggregates:
        if isinstance(root, RootEntity) and root.recorded:
            row = recorded_row(root)
            found.setdefault(root.__category__, []).append(conceal(root, row) if _is_personal(root) else row)
    return Rows(found)


def subjects_of_rows(aggregates: Iterable[Aggregate]) -> set[str]:
    """Whose personal data these rows hold."""
    return {
        str(root.id) for root in aggregates if isinstance(root, RootEntity) and root.recorded and _is_personal(root)
    }


def _is_personal(root: RootEntity) -> bool:
    return any(root.recorded_state.get(field.key) is not None for field in root.__personal__)


def recorded_row(root: RootEntity) -> RootState:
    """Its row once all that is recorded is stored."""
    return _row(root, root.recorded_state, root.version + len(root.recorded))


def present_row(root: RootEntity) -> RootState:
    """Its row as it is in memory, with what is not recorded yet."""
    return _row(root, root.row_state(), root.version)


def restore(root: Any, row: RootState) -> None:
    """Take over a row. Raises pydantic's ValidationError if the code cannot read it any more."""
    root.restore(to_json(row.state), row.version, row.created_at, row.updated_at, row.deleted_at)


def _row(root: RootEntity, state: Mapping[str, Any], version: int) -> RootState:
    return RootState(root.id, version, state, root.created_at, root.updated_at, root.deleted_at)
