"""What a run of torture is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

ReaderName: TypeAlias = Literal["floor", "position", "xid"]
"""`floor` is the reader of this library; the other two are wrong on PostgreSQL, and are there to be caught."""
READERS: tuple[ReaderName, ...] = get_args(ReaderName)

SEATS = 5
"""The invariant of the decisions: never more events than this with one tag."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`seed` makes the choices of the load, not the timing of the server: two runs with one seed are only alike."""

    database_url: str
    seed: int
    seconds: float = 60.0
    writers: int = 48
    reader: ReaderName = "floor"
    kills: bool = True
    decisions: bool = True
    group_commit: bool = True
