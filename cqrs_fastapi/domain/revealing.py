"""What repositories ask of whoever knows the keys of data subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.eventstore.history import FoundSnapshot
from cqrs_fastapi.storage.prepared import Row


class RevealedHistory(NamedTuple):
    """Rows with the personal values that they hold, and the keys that these were encrypted with."""

    rows: Sequence[Row]
    key_ids: frozenset[UUID]


class Reveals(Protocol):
    """Gives what is stored with its personal values, or placeholders where the subject was forgotten."""

    async def history(self, stream: str, rows: Sequence[Row], /) -> RevealedHistory:
        """Of the rows that an aggregate is folded from: version, type, schema_version and data."""
        ...

    async def snapshot(self, stream: str, fingerprint: str, found: FoundSnapshot, /) -> bytes:
        """The state of a snapshot that holds data of somebody. WrongKeyError if one of the keys is no more."""
        ...

    async def states(self, of: type[RootEntity], rows: Sequence[RootState], /) -> Sequence[RootState]:
        """Of the rows of root entities."""
        ...
