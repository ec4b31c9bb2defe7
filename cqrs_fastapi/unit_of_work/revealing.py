"""Reveals what repositories load, in the transaction of their unit of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.revealing import RevealedHistory
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.eventstore.history import FoundSnapshot
from cqrs_fastapi.personal_data.key_ring import Within
from cqrs_fastapi.personal_data.tokens import Place
from cqrs_fastapi.storage.prepared import Row
from cqrs_fastapi.unit_of_work.disclosures import Disclosures


class HasTransaction(Protocol):
    """What is needed of the unit of work."""

    @property
    def tenant(self) -> str: ...

    def within(self) -> Within | None:
        """The transaction that is open, if there is one."""
        ...


@dataclass(frozen=True, slots=True)
class UnitReveals:
    """What is revealed through it, the unit has learnt: see `Disclosures`."""

    unit: HasTransaction
    disclosed: Disclosures

    async def history(self, stream: str, rows: Sequence[Row], /) -> RevealedHistory:
        return await self.disclosed.reveal_history(self.unit.tenant, stream, rows, self.unit.within())

    async def snapshot(self, stream: str, fingerprint: str, found: FoundSnapshot, /) -> bytes:
        place = Place(self.unit.tenant, stream, fingerprint, found.version)
        return await self.disclosed.open_snapshot(place, found, self.unit.within())

    async def states(self, of: type[RootEntity], rows: Sequence[RootState], /) -> Sequence[RootState]:
        return await self.disclosed.reveal_states(self.unit.tenant, of, rows, self.unit.within())
