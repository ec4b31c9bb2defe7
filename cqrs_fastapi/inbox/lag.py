"""How far the durable handlers of a service are behind its store, and who holds them back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from cqrs_fastapi.eventstore.checkpoints import read_checkpoints
from cqrs_fastapi.eventstore.horizon import Holder, Horizon, holders, read_horizon
from cqrs_fastapi.storage.tables import Tables

HELD_BACK_AFTER = 3.0
"""Seconds after which an append that is still under way is worth a word."""
_QUERY_CHARACTERS = 60
# Values that somebody wrote into a statement may be secret, and readiness is shown to whoever asks.
_VALUES = re.compile(r"'(?:[^']|'')*'?|\$(\w*)\$.*?(?:\$\1\$|$)|\b\d[\w.]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Lag:
    """`behind` is the distance of each checkpoint from W; `holder` has held the lowest floor, for the longest time."""

    horizon: Horizon
    behind: Mapping[str, int]
    holder: Holder | None = None

    @property
    def floor_seconds(self) -> float:
        """The age of the oldest append under way."""
        return self.holder.seconds if self.holder is not None else 0.0

    def told(self) -> str:
        """For people: no address, no credential, no value of a statement."""
        name, distance = max(self.behind.items(), key=lambda one: one[1], default=("", 0))
        said = "up to date" if distance == 0 else f"{name} is {distance} behind position {self.horizon.safe}"
        if self.holder is None or self.floor_seconds < HELD_BACK_AFTER:
            return said
        who = f"process {self.holder.pid}" if self.holder.pid is not None else "a prepared transaction"
        return (
            f"{said}; held back at position {self.holder.position} of {self.horizon.highest} for "
            f"{self.floor_seconds:.0f} s by {who} ({self.holder.state}): {without_values(self.holder.query)}"
        )


def read_lag(connection: Connection, tables: Tables, consumers: Sequence[str]) -> Lag:
    """Of these handlers; one that has no checkpoint yet is not counted."""
    known = read_checkpoints(connection, tables, consumers)
    horizon = read_horizon(connection, tables)
    holding = holders(connection, tables) if horizon.safe < horizon.highest else []
    behind = {name: max(0, horizon.safe - checkpoint.position) for name, checkpoint in known.items()}
    return Lag(horizon, behind, max(holding, key=lambda one: one.seconds, default=None))


def without_values(query: str) -> str:
    """The beginning of a statement, with `?` for its values."""
    masked = " ".join(_VALUES.sub("?", query).split())
    return masked if len(masked) <= _QUERY_CHARACTERS else masked[: _QUERY_CHARACTERS - 1] + "…"
