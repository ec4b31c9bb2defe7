"""Appends on PostgreSQL: units of work, one or many, as the arguments of one call of the database's own function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from cqrs_fastapi.errors import ConcurrencyError, CqrsError, StreamClosedError
from cqrs_fastapi.eventstore.conditions import locks_of
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, describe
from cqrs_fastapi.eventstore.key_locks import key_locks_of
from cqrs_fastapi.eventstore.records import AppendUnit, StreamAppend
from cqrs_fastapi.eventstore.repeats import RepeatedError
from cqrs_fastapi.storage.tables import Tables

_CODES: Mapping[ExpectedVersion, int] = {ANY: -1, STREAM_EXISTS: -2, NO_STREAM: 0}
_OUTBOX = (
    "id",
    "aggregatetype",
    "aggregateid",
    "type",
    "topic",
    "key",
    "bucket",
    "headers",
    "payload",
    "available_at",
    "tenant",
    "delay",
    "created_at",
)
_TYPES = (
    *("boolean", "timestamptz"),
    *("text[]", "text[]", "text[]", "boolean[]"),
    "int[]",
    *("int[]", "bigint[]", "int[]"),
    *("int[]", "int[]", "uuid[]", "text[]", "int[]", "text[]", "text[]"),
    *("text[]", "int[]", "timestamptz[]"),
    *("uuid[]", "text[]", "text[]", "text[]", "boolean[]"),
    *("text", "bigint", "bigint[]", "json"),
    *("int[]", "uuid[]", "text[]", "text[]", "text[]", "text[]", "text[]", "int[]", "text[]", "bytea[]"),
    *("timestamptz[]", "text[]", "float8[]", "timestamptz[]"),
    *("int[]", "int[]"),
    *("int[]", "text[]", "text[]", "text[]", "text[]", "int[]", "text[]", "text[]"),
)
_NOT_SENT = (None, None, None)
APPENDED, CONFLICT, LEFT, REPEATED, CLOSED, BROKEN = range(6)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one unit: the new version of each stream, or why nothing of it was written."""

    outcome: int
    versions: Mapping[str, int]
    error: CqrsError | None


@lru_cache(maxsize=16)
def statement_for(tables: Tables) -> str:
    """The call, with numbered parameters as the driver has them."""
    events = tables.events
    prefix = events.name.removesuffix("events")
    function = f'"{events.schema}".{prefix}append' if events.schema else f"{prefix}append"
    parameters = ", ".join(f"${number}::{kind}" for number, kind in enumerate(_TYPES, start=1))
    return f"SELECT outcome, failed, actual, bases FROM {function}({parameters})"  # noqa: S608  # names of the settings


def arguments_for(units: Sequence[AppendUnit], *, waits: bool) -> list[Any]:
    """The arguments of the call. Everything that is locked is sorted, the same way by every process."""
    streams = _streams(units)
    number_of = {key: number for number, key in enumerate(streams, start=1)}
    checks: list[tuple[int, int, int]] = []
    events: list[tuple[Any, ...]] = []
    tags: list[tuple[Any, str]] = []
    outbox: list[tuple[Any, ...]] = []
    records: list[tuple[Any, ...]] = []
    for member, unit in enumerate(units, start=1):
        tenant = unit.tenant
        for wanted in unit.appends:
            checks.append((number_of[tenant, wanted.stream], _code(wanted.expected), len(wanted.events)))
            _add_events(events, tags, wanted, len(checks))
        outbox += [(member, *(row.get(name) for name in _OUTBOX)) for row in unit.outbox]
        if unit.record is not None and unit.record_key is not None:
            records.append((member, *unit.record_key, unit.record.fingerprint, unit.record.response))
    records.sort(key=lambda row: row[1:6])
    return [
        waits,
        max(unit.now for unit in units),
        *_columns(((*key, *streams[key]) for key in streams), 4),
        [len(unit.appends) for unit in units],
        *_columns(checks, 3),
        *_columns(events, 10),
        *_columns(tags, 2),
        *_columns(locks_of(units), 3),
        *_condition(units),
        *_columns(outbox, 14),
        *_columns(key_locks_of(units), 2),
        *_columns(records, 8),
    ]


def answers_of(units: Sequence[AppendUnit], row: Sequence[Any]) -> list[Answer]:
    """What the call's one row says of each unit."""
    outcomes, failed, actual, bases = row
    answers, first = [], 0
    for member, unit in enumerate(units):
        outcome, present = outcomes[member], actual[member]
        if outcome == APPENDED:
            versions = {one.stream: bases[first + number] + len(one.events) for number, one in enumerate(unit.appends)}
            answers.append(Answer(outcome, versions, None))
        else:
            check = unit.appends[failed[member] - 1 - first] if failed[member] else None
            answers.append(Answer(outcome, {}, _error(outcome, unit, check, present)))
        first += len(unit.appends)
    return answers


def _error(outcome: int, unit: AppendUnit, check: StreamAppend | None, present: int) -> CqrsError | None:
    if outcome == REPEATED and unit.record is not None:
        return RepeatedError(unit.record)
    if outcome == BROKEN and unit.condition is not None:
        return ConcurrencyError(stream=unit.condition.name, expected="unchanged", actual=present)
    if check is None:
        return None
    if outcome == CLOSED:
        return StreamClosedError(check.stream)
    return ConcurrencyError(stream=check.stream, expected=describe(check.expected), actual=present)


def _streams(units: Sequence[AppendUnit]) -> dict[tuple[str, str], tuple[str, bool]]:
    """Category and whether some member may create it, by tenant and name, sorted."""
    found: dict[tuple[str, str], tuple[str, bool]] = {}
    for unit in units:
        for wanted in unit.appends:
            key = (unit.tenant, wanted.stream)
            creates = wanted.expected is NO_STREAM or wanted.expected is ANY
            found[key] = (wanted.category, creates or (key in found and found[key][1]))
    return {key: found[key] for key in sorted(found)}


def _add_events(
    events: list[tuple[Any, ...]],
    tags: list[tuple[Any, str]],
    wanted: StreamAppend,
    check: int,
) -> None:
    for number, event in enumerate(wanted.events, start=1):
        message_id, kind, version, data, metadata, sending, carried, _ = event
        events.append((check, number, message_id, kind, version, data, metadata, *(sending or _NOT_SENT)))
        tags += [(message_id, tag) for tag in carried]


def _condition(units: Sequence[AppendUnit]) -> tuple[Any, ...]:
    conditional = [unit for unit in units if unit.condition is not None]
    if not conditional:
        return (None, None, None, None)
    (unit,) = units  # an append with a condition is a batch of its own
    condition = unit.condition
    assert condition is not None  # noqa: S101  # for the checker: it was asked for just above
    matching = [{"types": one.types, "tags": one.tags} for one in condition.matching]
    return (unit.tenant, condition.after, list(condition.seen), to_json(matching).decode())


def _code(expected: ExpectedVersion) -> int:
    return expected if isinstance(expected, int) else _CODES[expected]


def _columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    columns: list[Sequence[Any]] = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]
