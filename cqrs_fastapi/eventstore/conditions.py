"""Which rows an append locks for its tags and its condition, so that a condition and what would break it take turns.

An event of a type with tags locks each that it carries, and shares the row of its type. A condition locks its tags;
where it names types without tags, it locks the rows of those types, which keeps all their events out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cqrs_fastapi.eventstore.records import AppendUnit


def locks_of(units: Sequence[AppendUnit]) -> list[tuple[str, str, bool]]:
    """Tenant, name and whether it is shared; each once, tags before types, in the one order of all processes."""
    locks: dict[tuple[bool, str, str], bool] = {}
    for unit in units:
        for is_type, name, shared in _needed(unit):
            key = (is_type, unit.tenant, _row_of(name) if is_type else name)
            locks[key] = shared and locks.get(key, True)
    return [(tenant, name, locks[is_type, tenant, name]) for is_type, tenant, name in sorted(locks)]


def _needed(unit: AppendUnit) -> Iterator[tuple[bool, str, bool]]:
    for wanted in unit.appends:
        for event in wanted.events:
            if event.is_tagged:
                yield True, event.type, True
            for tag in event.tags:
                yield False, tag, False
    for one in unit.condition.matching if unit.condition is not None else ():
        for tag in one.tags:
            yield False, tag, False
        if not one.tags:
            for name in one.types:
                yield True, name, False


def _row_of(event_type: str) -> str:
    """No tag holds a space, so that this is never one."""
    return f"type {event_type}"
