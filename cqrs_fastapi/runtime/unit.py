"""The unit of work of a running application, whose events reach the durable handlers of this process at once."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.inbox.starts import Starts
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.unit_of_work.unit_of_work import Services, UnitOfWork


class ApplicationUnitOfWork(UnitOfWork):
    """Before its first event is committed, every durable handler has a place to begin at; afterwards they are woken."""

    __slots__ = ("_starts", "_tell")

    def __init__(
        self,
        services: Services,
        scope: Scope,
        session: AsyncSession | None,
        starts: Starts,
        tell: Callable[[], None],
    ) -> None:
        super().__init__(services, scope, session)
        self._starts = starts
        self._tell = tell

    async def commit(self) -> None:
        """As `UnitOfWork.commit`."""
        if not self._drafts:
            await super().commit()
            return
        if not self._starts.recorded:  # the database was away when the application started
            await self._starts.record()
        await super().commit()
        self._tell()
