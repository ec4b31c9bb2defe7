"""The unit of work of a running application, whose events reach the durable handlers of this process at once."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.runtime.reading import StoreReading
from cqrs_fastapi.runtime.snapshot_writer import SnapshotWriter
from cqrs_fastapi.unit_of_work.services import Services
from cqrs_fastapi.unit_of_work.snapshots import snapshots_due
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork


class ApplicationUnitOfWork(UnitOfWork):
    """Before its first event is committed, every durable handler has a place to begin at; afterwards they are woken,
    and the snapshots that are due are taken.
    """

    __slots__ = ("_snapshots", "_starts", "_tell")

    def __init__(
        self,
        services: Services,
        scope: Scope,
        session: AsyncSession | None,
        reading: StoreReading,
        snapshots: SnapshotWriter,
    ) -> None:
        super().__init__(services, scope, session)
        self._starts = reading.starts
        self._tell = reading.committed
        self._snapshots = snapshots

    async def commit(self) -> None:
        """As `UnitOfWork.commit`."""
        if not self._drafts:
            await super().commit()
            return
        if not self._starts.recorded:  # the database was away when the application started
            await self._starts.record()
        await super().commit()
        self._tell()
        is_committed = self._session is None or self._session_is_ours  # else its owner has yet to commit
        aggregates = self._aggregates.values()
        if is_committed and any(one.__snapshots__ is not None for one in aggregates):
            now, registry = self._kernel.clock.now(), self._services.registry
            self._snapshots.take(
                snapshots_due(aggregates, self._drafts, registry, self._disclosed, tenant=self.tenant, now=now)
            )
